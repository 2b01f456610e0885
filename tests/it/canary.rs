//! Snapshots under fire; the long run is `cargo run --release -p tests --bin canary`.

use tests::canary::{self, Options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_s1_canary_four_snapshots_under_writes() {
    let seed = fastrand::u64(..1 << 48);
    let options = Options { snapshots: 4, seed, only: None, filler_bytes: 16 << 20, tell: false };
    let report = canary::run(options).await;
    assert!(report.wrong.is_empty(), "seed {seed}: {:#?}", report.wrong);
    // The third kills the leader; whatever happens, the verb gets its file in the end.
    assert_eq!((report.good, report.failed), (4, 0), "seed {seed}: {report:?}");
    assert!(report.writes > 0, "{report:?}");
}
