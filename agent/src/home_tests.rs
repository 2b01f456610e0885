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
fn home_opens_with_whole_keys_only() {
    let temp = tempfile::tempdir().unwrap();
    let report = init(temp.path(), &SystemRandom).unwrap();
    let whole = std::fs::read_to_string(&report.kek).unwrap();
    let open = || Home::open(temp.path(), &SystemRandom);
    assert_eq!(open().unwrap().signing_key().public(), report.signing_public);

    let key_line = whole.find("\nkey ").unwrap();
    let flipped = whole.replacen("\nkey ", "\nkey 0", 1);
    for (text, expected) in [
        (String::new(), Code::KeyMissing),
        (whole[..key_line + 20].to_owned(), Code::KeyTooShort),
        (flipped, Code::Damaged),
        ("\u{0}binary".to_owned(), Code::Damaged),
    ] {
        std::fs::write(&report.kek, &text).unwrap();
        assert_eq!(code_of(open()), expected, "{text:?}");
        assert_eq!(std::fs::read_to_string(&report.kek).unwrap(), text, "never replaced");
    }
    std::fs::remove_file(&report.kek).unwrap();
    let error = open().err().unwrap();
    assert_eq!(error.code(), Code::KeyMissing);
    assert!(error.to_string().contains("kek.key"), "{error}");
    assert!(!report.kek.exists());
    std::fs::write(&report.kek, std::fs::read(&report.signing_key).unwrap()).unwrap();
    assert_eq!(code_of(open()), Code::WrongKey);
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
