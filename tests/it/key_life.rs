//! Keys that change while backups go on: the store secret lost, cut, changed and rotated, the signing
//! key lost, and a new recovery key for a fleet with a cluster that is gone.

use std::path::{Path, PathBuf};

use proto_types::Code;
use serde_json::Value;
use tests::agent::text;
use tests::cli::Done;
use tests::tree::{Tree, assert_same};
use tests::wait::until;
use tests::{Agent, Fleet};

fn shown(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

fn source(fleet: &Fleet, name: &str) -> PathBuf {
    let source = fleet.scratch(name);
    std::fs::create_dir_all(source.join("secrets")).expect("a directory");
    std::fs::write(source.join("conf"), "as it was at first\n").expect("a file");
    std::fs::write(source.join("secrets/token"), "a secret of the source\n").expect("a file");
    source
}

fn change(source: &Path, what: &str) {
    std::fs::write(source.join("conf"), what).expect("a file");
}

fn kek_text() -> String {
    bundle::Kek::generate(&proto_types::env::SystemRandom).to_text().to_string()
}

async fn findings(agent: &Agent) -> Vec<String> {
    let found = agent.cli.json(&["finding", "list"]).await;
    let list = found.as_array().cloned().or_else(|| found["findings"].as_array().cloned());
    list.unwrap_or_default().iter().map(|finding| text(finding, "kind")).collect()
}

/// Restores a point with the KEK that is in the agent's directory now, and compares it.
async fn opens_with_the_kek(agent: &Agent, fleet: &Fleet, sequence: u64, expect: &str) {
    let to = fleet.scratch(&format!("{}-{sequence}-{}", agent.cluster, expect.len()));
    let (point, kek) = (format!("{}@{sequence}", agent.cluster), agent.kek());
    drop(
        agent
            .cli
            .run(&["restore", "--point", &point, "--to", shown(&to), "--kek", shown(&kek)])
            .await
            .success(),
    );
    assert_eq!(std::fs::read_to_string(to.join("conf")).expect("restored"), expect);
    let token = std::fs::read_to_string(to.join("secrets/token")).expect("restored");
    assert_eq!(token, "a secret of the source\n");
}

async fn uploaded(agent: &Agent, sequence: u64) -> u64 {
    let shown = agent.cli.json(&["backup", "list", "--cluster", &agent.cluster]).await;
    let points = shown.as_array().cloned().or_else(|| shown["points"].as_array().cloned());
    let points = points.unwrap_or_default();
    let point = points
        .iter()
        .find(|point| point["sequence"].as_u64() == Some(sequence))
        .unwrap_or_else(|| panic!("no point {sequence} in {shown}"));
    point["added_bytes"].as_u64().unwrap_or_else(|| panic!("no added_bytes in {point}"))
}

#[tokio::test]
async fn kek_lost_cut_changed_or_rotated_every_point_still_opens_and_a_person_is_told() {
    let fleet = Fleet::start().await;
    let source = source(&fleet, "source");
    // Bytes whose second upload would show.
    let big: Vec<u8> =
        (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(source.join("big"), &big).expect("a file");
    let mut agent = Agent::enrol(&fleet, "harbour", &source, &["secrets/**"]).await;
    assert_eq!(agent.backup().await, 1);
    let first = std::fs::read_to_string(agent.kek()).expect("a KEK");

    // Gone while the agent runs: a new one, in the next key bundle, although nothing else changed.
    std::fs::remove_file(agent.kek()).expect("removed");
    assert_eq!(agent.backup().await, 2);
    let second = std::fs::read_to_string(agent.kek()).expect("made by the agent");
    assert_ne!(first, second);
    assert!(findings(&agent).await.contains(&"store-secret-created".to_owned()));
    opens_with_the_kek(&agent, &fleet, 1, "as it was at first\n").await;
    opens_with_the_kek(&agent, &fleet, 2, "as it was at first\n").await;

    // Changed by a hand.
    let third = kek_text();
    std::fs::write(agent.kek(), &third).expect("written");
    change(&source, "after the hand\n");
    assert_eq!(agent.backup().await, 3);
    assert_eq!(std::fs::read_to_string(agent.kek()).expect("kept"), third);
    assert!(findings(&agent).await.contains(&"store-secret-changed".to_owned()));
    opens_with_the_kek(&agent, &fleet, 1, "as it was at first\n").await;
    opens_with_the_kek(&agent, &fleet, 3, "after the hand\n").await;

    // Cut short: replaced, and what was there is kept.
    let cut = &third[..third.len() / 2];
    std::fs::write(agent.kek(), cut).expect("written");
    assert_eq!(agent.backup().await, 4);
    assert!(findings(&agent).await.contains(&"store-secret-replaced".to_owned()));
    let aside = agent.directory().join("kek.unusable.1");
    assert_eq!(std::fs::read_to_string(aside).expect("kept aside"), cut);
    opens_with_the_kek(&agent, &fleet, 1, "as it was at first\n").await;

    // Rotated by an operator: no data moves, and every point opens with the new one.
    let before = std::fs::read_to_string(agent.kek()).expect("a KEK");
    let ordered = agent.cli.json(&["cluster", "rotate-kek", "harbour"]).await;
    assert_eq!((ordered["order"].as_u64(), ordered["done"].as_u64()), (Some(1), Some(0)));
    let sequence = agent.backup().await;
    let after = std::fs::read_to_string(agent.kek()).expect("a KEK");
    assert_ne!(before, after, "the agent took a new one");
    assert!(!agent.directory().join("kek.next").exists());
    assert!(uploaded(&agent, sequence).await < 100_000, "no data moved");
    opens_with_the_kek(&agent, &fleet, 1, "as it was at first\n").await;
    opens_with_the_kek(&agent, &fleet, sequence, "after the hand\n").await;
    let status = agent.cli.json(&["key", "status"]).await;
    assert_eq!(status["clusters"][0]["kek_ordered"], Value::Bool(false), "{status}");

    // A new data key at once; what is there is not sent again.
    agent.cli.json(&["cluster", "rotate-dek", "harbour"]).await;
    let sequence = agent.backup().await;
    assert!(uploaded(&agent, sequence).await < 100_000, "no data moved");
    let status = agent.cli.json(&["key", "status"]).await;
    assert_eq!(status["clusters"][0]["dek_ordered"], Value::Bool(false), "{status}");
    opens_with_the_kek(&agent, &fleet, sequence, "after the hand\n").await;
    // Once ordered, once done.
    let point = agent.backup().await;
    assert!(uploaded(&agent, point).await == 0, "nothing to do any more");

    // Changed while the agent is down: nobody there knows the one before. A full point, a new lineage;
    // the recovery key still opens what was.
    agent.kill();
    std::fs::write(agent.kek(), kek_text()).expect("written");
    agent.start().await;
    let anew = agent.backup().await;
    assert!(uploaded(&agent, anew).await > 400_000, "everything is sealed anew");
    assert!(findings(&agent).await.contains(&"key-lineage-begun".to_owned()));
    opens_with_the_kek(&agent, &fleet, anew, "after the hand\n").await;
    let to = fleet.scratch("old-by-recovery");
    let key = fleet.recovery_files();
    drop(
        agent
            .cli
            .run(&[
                "restore",
                "--point",
                "harbour@1",
                "--to",
                shown(&to),
                "--recovery-key",
                shown(&key),
            ])
            .await
            .success(),
    );
    assert_eq!(std::fs::read_to_string(to.join("conf")).expect("restored"), "as it was at first\n");
    let status = agent.cli.json(&["key", "status"]).await;
    assert_eq!(status["clusters"][0]["lineage"], Value::from(1));
    assert_eq!(
        status["clusters"][0]["unapproved"],
        Value::Bool(false),
        "its signing key is the same"
    );
}

#[tokio::test]
async fn signing_key_lost_is_found_again_or_waits_for_an_operator() {
    let fleet = Fleet::start().await;
    let source = source(&fleet, "source");
    let mut agent = Agent::enrol(&fleet, "harbour", &source, &["secrets/**"]).await;
    assert_eq!(agent.backup().await, 1);
    let path = agent.directory().join("signing.key");
    let first = std::fs::read_to_string(&path).expect("a key");

    // It is in the key bundle, which the KEK opens.
    agent.kill();
    std::fs::remove_file(&path).expect("removed");
    agent.start().await;
    change(&source, "signed as before\n");
    assert_eq!(agent.backup().await, 2);
    assert_eq!(std::fs::read_to_string(&path).expect("found"), first);
    assert!(findings(&agent).await.contains(&"signing-key-found".to_owned()));

    // Both are lost: the agent makes new ones, and nothing is proved by them.
    agent.kill();
    std::fs::remove_file(&path).expect("removed");
    std::fs::remove_file(agent.kek()).expect("removed");
    agent.start().await;
    let point = agent.backup().await;
    assert!(findings(&agent).await.contains(&"key-lineage-unapproved".to_owned()));
    let proofs = async |sequence: u64| {
        let name = format!("harbour@{sequence}");
        let listed = agent.cli.json(&["backup", "list", "--cluster", "harbour"]).await.to_string();
        assert!(listed.contains(&name) || listed.contains("\"sequence\""), "{listed}");
        let status = agent.cli.json(&["status"]).await;
        status["clusters"][0]["newest_proved"]["sequence"]
            .as_u64()
            .unwrap_or_else(|| panic!("no proved point in {status}"))
    };
    assert_eq!(proofs(point).await, 2, "the newest good one is from before");
    // Nobody here pinned the new key, so it is not believed either.
    let (name, kek) = (format!("harbour@{point}"), agent.kek());
    let to = fleet.scratch("unapproved");
    let restore = ["restore", "--point", &name, "--to", shown(&to), "--kek", shown(&kek)];
    agent.cli.run(&restore).await.assert_refused(
        "a new signer",
        Code::BadSignature,
        &["signed by"],
    );

    let keys = agent.cli.json(&["agent", "keys", "--dir", shown(agent.directory())]).await;
    let fingerprint = text(&keys, "signing_key_fingerprint");
    let wrong = "0".repeat(fingerprint.len());
    let refused =
        agent.cli.run(&["cluster", "approve-lineage", "harbour", "--fingerprint", &wrong]).await;
    refused.assert_refused("another fingerprint", Code::WrongKey, &[&fingerprint]);
    let approve = ["cluster", "approve-lineage", "harbour", "--fingerprint", &fingerprint];
    let approved = agent.cli.json(&approve).await;
    assert_eq!(approved["approved"], Value::Bool(true));
    assert!(!findings(&agent).await.contains(&"key-lineage-unapproved".to_owned()));
    opens_with_the_kek(&agent, &fleet, point, "signed as before\n").await;
    change(&source, "approved\n");
    let point = agent.backup().await;
    assert_eq!(proofs(point).await, point, "proved again");
    opens_with_the_kek(&agent, &fleet, point, "approved\n").await;
    // What the lost key signed is still the cluster's, by the recovery key.
    let (to, key) = (fleet.scratch("before"), fleet.recovery_files());
    drop(
        agent
            .cli
            .run(&[
                "restore",
                "--point",
                "harbour@2",
                "--to",
                shown(&to),
                "--recovery-key",
                shown(&key),
            ])
            .await
            .success(),
    );
}

fn shares_in(directory: &Path) -> Vec<String> {
    (1..=3).map(|n| shown(&directory.join(format!("share-{n}-of-5.txt"))).to_owned()).collect()
}

async fn restore_with(agent: &Agent, key: &[String], point: &str, to: &Path) -> Done {
    let mut arguments = vec!["restore", "--point", point, "--to", shown(to)];
    for share in key {
        arguments.extend(["--share", share]);
    }
    agent.cli.run(&arguments).await
}

#[tokio::test]
async fn key_rotate_renews_living_and_lost_clusters_and_both_keys_work_until_it_is_done() {
    let fleet = Fleet::start().await;
    let first_source = source(&fleet, "first");
    let second_source = source(&fleet, "second");
    let agent = Agent::enrol(&fleet, "harbour", &first_source, &["secrets/**"]).await;
    let mut gone = Agent::enrol(&fleet, "village", &second_source, &["secrets/**"]).await;
    assert_eq!(agent.backup().await, 1);
    assert_eq!(gone.backup().await, 1);
    change(&second_source, "the last of it\n");
    assert_eq!(gone.backup().await, 2);
    // A key bundle of before, which the newest point does not need.
    agent.cli.json(&["cluster", "rotate-dek", "harbour"]).await;
    change(&first_source, "under another key\n");
    let before = agent.backup().await;
    gone.kill();

    // Shares of the whole key, to rotate with.
    let whole = fleet.recovery_files();
    let (old, new) = (fleet.scratch("old-shares"), fleet.scratch("new-shares"));
    let split = agent
        .cli
        .json(&["key", "split", "--recovery-key", shown(&whole), "--out", shown(&old)])
        .await;
    assert_eq!(split["total"], Value::from(5));
    let mut rotate = vec!["key", "rotate", "--out", shown(&new)];
    let old_shares = shares_in(&old);
    for share in &old_shares {
        rotate.extend(["--share", share]);
    }
    let rotated = agent.cli.json(&rotate).await;
    let fingerprint = text(&rotated, "fingerprint");
    let status = agent.cli.json(&["key", "status"]).await;
    assert_eq!(text(&status, "fingerprint"), fingerprint);
    assert_eq!(status["rotating"], Value::Bool(true));
    assert_eq!(status["owed"].as_array().map(Vec::len), Some(2), "{status}");
    // Another rotation has to wait, and the old shares are no way to one.
    let again = fleet.scratch("again");
    let mut twice = rotate.clone();
    twice[3] = shown(&again);
    let refused = agent.cli.run(&twice).await;
    refused.assert_refused("the old shares", Code::WrongKey, &["the fleet"]);
    assert!(!again.exists() || again.read_dir().expect("a directory").next().is_none());

    // The old key opens what is not renewed.
    let to = fleet.scratch("old-opens");
    drop(restore_with(&gone, &old_shares, "village@2", &to).await.success());

    // The living agent learns of it by itself, and renews what it made before.
    let point = agent.backup().await;
    assert!(point > before);
    let new_shares = shares_in(&new);
    until("the agent renewed its wraps", async || {
        let status = agent.cli.json(&["key", "status"]).await;
        let owed = status["owed"].as_array().expect("a list").clone();
        owed.iter().all(|owed| owed["cluster"] != "harbour").then_some(())
    })
    .await;
    for sequence in [1, before, point] {
        let to = fleet.scratch(&format!("harbour-{sequence}"));
        let name = format!("harbour@{sequence}");
        drop(restore_with(&agent, &new_shares, &name, &to).await.success());
        let refused =
            restore_with(&agent, &old_shares, &name, &fleet.scratch(&format!("no-{sequence}")))
                .await;
        refused.assert_refused("the old shares", Code::WrongKey, &[]);
    }
    // And goes on backing up.
    change(&first_source, "after the rotation\n");
    let next = agent.backup().await;
    opens_with_the_kek(&agent, &fleet, next, "after the rotation\n").await;

    // The lost one is renewed here, from shares of before; the new ones open nothing of it yet.
    let mut finish = vec!["key", "rotate", "--finish-for", "village"];
    for share in &new_shares {
        finish.extend(["--share", share]);
    }
    let refused = agent.cli.run(&finish).await;
    refused.assert_refused("the new shares", Code::WrongKey, &["1 key bundles"]);
    let mut finish = vec!["key", "rotate", "--finish-for", "village"];
    for share in &old_shares {
        finish.extend(["--share", share]);
    }
    let finished = agent.cli.json(&finish).await;
    assert_eq!(finished[0]["left"], Value::from(0), "{finished}");
    until("the rotation is over", async || {
        let status = agent.cli.json(&["key", "status"]).await;
        (status["rotating"] == Value::Bool(false)).then_some(())
    })
    .await;
    let to = fleet.scratch("village");
    drop(restore_with(&gone, &new_shares, "village@2", &to).await.success());
    assert_same(&Tree::read(&second_source), &Tree::read(&to));

    // A holder shows a share: the fleet knows of it, and not the share.
    let recovery_pub = new.join("recovery.pub");
    let attested = agent
        .cli
        .json(&["key", "attest", &new_shares[0], "--recovery-pub", shown(&recovery_pub)])
        .await;
    assert_eq!(attested["told"], Value::Bool(true));
    let status = agent.cli.json(&["key", "status"]).await;
    assert_eq!(status["attested"][0]["share"], Value::from(1));
    let old_pub = old.join("recovery.pub");
    let refused =
        agent.cli.run(&["key", "attest", &old_shares[0], "--recovery-pub", shown(&old_pub)]).await;
    refused.assert_refused("a share of before", Code::WrongKey, &["another recovery key"]);
}
