use proto_types::Code;

use crate::story::Story;
use crate::tree;

#[tokio::test(flavor = "multi_thread")]
async fn upload_that_breaks_twice_goes_on_where_it_stopped() {
    let mut story = Story::begin().await;
    let source = story.source();
    tree::write(&source, "big", &tree::noise(8 << 20, 5));
    // The largest bundle meets a break each time it begins; small ones may meet them as well.
    story.fleet.lock().faults.break_uploads = vec![3 << 20, 3 << 20, 3 << 20, 3 << 20];
    let point = story.backup().await;
    assert_eq!(point.sequence, 1);
    let copy = story.path("copy");
    story.restore(1, &copy).await;
    tree::assert_equal(&source, &copy);
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_resumes_at_the_same_node_without_sending_again() {
    let mut story = Story::begin().await;
    story.fleet.addresses.truncate(1);
    story.start_agent();
    tree::write(&story.source(), "big", &tree::noise(8 << 20, 5));
    story.fleet.lock().faults.break_uploads = vec![5 << 20; 4];
    story.backup().await;
    let uploaded = story.fleet.lock().uploaded;
    assert!(uploaded < (8 << 20) + 100_000, "sent {uploaded} bytes for 8 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_moves_on_when_a_coordinator_dies() {
    let mut story = Story::begin().await;
    tree::write(&story.source(), "big", &tree::noise(4 << 20, 5));
    story.backup().await;
    story.fleet.nodes[0].abort();
    tree::write(&story.source(), "big", &tree::noise(4 << 20, 6));
    assert_eq!(story.backup().await.sequence, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_refused_for_good_fails_clearly_and_the_next_backup_succeeds() {
    let mut story = Story::begin().await;
    // Too large to come in the commit.
    tree::write(&story.source(), "a", &tree::noise(32 << 10, 1));
    story.fleet.lock().faults.refuse_uploads = vec![Code::LeaseGone; 4];
    let error = story.try_backup(false).await.unwrap_err();
    assert_eq!(error.code(), Code::LeaseGone);
    assert_eq!(story.fleet.take_calls()["end_upload"], 1, "the lease is given up");
    assert!(story.fleet.lock().points.is_empty());
    story.fleet.lock().faults.refuse_uploads.clear();
    assert_eq!(story.backup().await.sequence, 1);
    let spool = std::fs::read_dir(story.path("state/spool")).unwrap().count();
    assert_eq!(spool, 0, "nothing is left in the spool");
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_whose_answer_is_lost_counts_once() {
    let mut story = Story::begin().await;
    tree::write(&story.source(), "a", b"b");
    story.fleet.lock().faults.lose_commit_answers = 2;
    assert_eq!(story.backup().await.sequence, 1);
    assert_eq!(story.fleet.lock().points.len(), 1);
    assert_eq!(story.backup().await.sequence, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_e1_an_agent_does_not_take_its_epoch_back_after_an_error() {
    let mut story = Story::begin().await;
    story.backup().await;
    tree::write(&story.source(), "a", &tree::noise(32 << 10, 1));
    story.fleet.lock().faults.refuse_uploads = vec![Code::LeaseGone; 4];
    story.try_backup(false).await.unwrap_err();
    story.fleet.lock().faults.refuse_uploads.clear();
    // Meanwhile another agent of the cluster became the active one.
    {
        let mut state = story.fleet.lock();
        state.epoch += 1;
        state.active = vec![1; 16];
    }
    assert_eq!(story.try_backup(false).await.unwrap_err().code(), Code::StaleEpoch);
    assert_eq!(story.fleet.lock().active, [1; 16]);
}
