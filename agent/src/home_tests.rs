use std::os::unix::fs::MetadataExt;

use proto_types::env::SystemRandom;

use super::*;

fn code_of<T>(result: Result<T, HomeError>) -> Code {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.code(),
    }
}

#[test]
fn home_init_makes_private_keys_and_never_overwrites() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path().join("agent");
    let report = init(&directory, &SystemRandom).unwrap();
    assert_eq!(report.signing_public.fingerprint(), report.signing_fingerprint);
    assert_eq!(std::fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
    for path in [&report.kek, &report.signing_key] {
        assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o777, 0o600, "{path:?}");
    }
    let before = std::fs::read(&report.kek).unwrap();
    assert_eq!(code_of(init(&directory, &SystemRandom)), Code::AlreadyExists);
    std::fs::remove_file(&report.signing_key).unwrap();
    assert_eq!(code_of(init(&directory, &SystemRandom)), Code::AlreadyExists);
    assert_eq!(std::fs::read(&report.kek).unwrap(), before);
    assert!(!report.signing_key.exists());
}

#[test]
fn home_makes_a_lost_or_cut_store_secret_anew_and_notes_it() {
    let temp = tempfile::tempdir().unwrap();
    let report = init(temp.path(), &SystemRandom).unwrap();
    let whole = std::fs::read_to_string(&report.kek).unwrap();
    let open = || Home::open(temp.path(), &SystemRandom);
    let read = || std::fs::read_to_string(&report.kek).unwrap();
    let home = open().unwrap();
    assert_eq!(home.signing_key().public(), report.signing_public);
    assert!(home.notices().is_empty());
    drop(home);
    assert_eq!(read(), whole);

    let key_line = whole.find("\nkey ").unwrap();
    let flipped = whole.replacen("\nkey ", "\nkey 0", 1);
    let mut aside = 0;
    for text in
        [String::new(), whole[..key_line + 20].to_owned(), flipped, "\u{0}binary".to_owned()]
    {
        std::fs::write(&report.kek, &text).unwrap();
        let home = open().unwrap();
        assert_eq!(home.notices(), [Notice::Replaced], "{text:?}");
        assert_eq!(home.kek().to_text().as_str(), read(), "what is used is what is kept");
        home.clear_notices();
        aside += 1;
        let kept = temp.path().join(format!("kek.unusable.{aside}"));
        assert_eq!(std::fs::read_to_string(kept).unwrap(), text, "a person may need it");
        drop(home);
        assert_ne!(read(), whole);
    }
    std::fs::remove_file(&report.kek).unwrap();
    let home = open().unwrap();
    assert_eq!(home.notices(), [Notice::Created]);
    drop(home);
    assert_eq!(open().unwrap().notices(), [Notice::Created], "until somebody was told");
    // Another key was put there by mistake: nothing is lost yet, so nothing is made.
    let signing = std::fs::read(&report.signing_key).unwrap();
    std::fs::write(&report.kek, &signing).unwrap();
    assert_eq!(code_of(open()), Code::WrongKey);
    assert_eq!(std::fs::read(&report.kek).unwrap(), signing);
}

#[test]
fn home_without_any_key_is_a_wrong_directory() {
    let temp = tempfile::tempdir().unwrap();
    let error = Home::open(temp.path(), &SystemRandom).err().unwrap();
    assert_eq!(error.code(), Code::KeyMissing);
    assert!(error.to_string().contains("kek.key"), "{error}");
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
}

#[test]
fn home_keeps_a_new_signing_key_beside_until_the_fleet_knows_it() {
    let temp = tempfile::tempdir().unwrap();
    let report = init(temp.path(), &SystemRandom).unwrap();
    std::fs::remove_file(&report.signing_key).unwrap();
    let open = || Home::open(temp.path(), &SystemRandom).unwrap();
    let home = open();
    assert!(home.signing_key_is_new());
    let key = home.signing_key().public();
    assert_ne!(key, report.signing_public);
    assert_eq!(signing_public(temp.path()).unwrap(), key);
    drop(home);
    let home = open();
    assert_eq!(home.signing_key().public(), key, "the same after a crash");
    home.keep_signing_key().unwrap();
    drop(home);
    let home = open();
    assert!(!home.signing_key_is_new());
    assert_eq!(home.signing_key().public(), key);
}

#[test]
fn home_pins_the_recovery_key_that_followed_the_configured_one_only() {
    let temp = tempfile::tempdir().unwrap();
    init(temp.path(), &SystemRandom).unwrap();
    let home = Home::open(temp.path(), &SystemRandom).unwrap();
    let key = || RecoverySecret::generate(&SystemRandom).public();
    let (configured, successor, other) = (key(), key(), key());
    assert_eq!(home.pinned_recovery(configured).unwrap(), configured);
    home.keep_recovery(&configured, &successor).unwrap();
    assert_eq!(home.pinned_recovery(configured).unwrap(), successor);
    assert_eq!(home.pinned_recovery(other).unwrap(), other, "a person configured another one");
}

#[test]
fn home_is_locked_keeps_its_instance_and_clears_the_spool() {
    let temp = tempfile::tempdir().unwrap();
    init(temp.path(), &SystemRandom).unwrap();
    let home = Home::open(temp.path(), &SystemRandom).unwrap();
    let instance = home.instance();
    assert_eq!(code_of(Home::open(temp.path(), &SystemRandom)), Code::Busy);
    std::fs::write(home.spool("left"), "x").unwrap();
    let left = home.spool("left");
    drop(home);
    let again = Home::open(temp.path(), &SystemRandom).unwrap();
    assert_eq!(again.instance(), instance);
    assert!(!left.exists());
}

#[test]
fn home_leaves_the_mode_of_a_directory_that_was_there() {
    use std::os::unix::fs::PermissionsExt;
    let temp = tempfile::tempdir().unwrap();
    let mode = || std::fs::metadata(temp.path()).unwrap().permissions().mode() & 0o7777;
    std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o770)).unwrap();
    let refused = init(temp.path(), &SystemRandom).unwrap_err();
    assert_eq!((refused.code(), mode()), (Code::PermissionDenied, 0o770));
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o755)).unwrap();
    init(temp.path(), &SystemRandom).unwrap();
    assert_eq!(mode(), 0o755);
}
