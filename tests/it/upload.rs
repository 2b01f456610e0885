//! Bad input on the way in: uploads that stop, repeat or lie, commits of what is not there,
//! requests over the limits. Each gets its code, and nothing is stored or lost by it.

use bytes::Bytes;
use proto::identity::Role;
use proto::v1;
use proto_types::{BundleId, Code};
use tests::client::assert_refused;
use tests::fleet::NODES;
use tests::sealed::{Content, Sealed};
use tests::wait::until_so;
use tests::{Answer, Fleet, RawCluster, Settings};

use crate::restart::{bundles_of, noise};

const BUNDLE_BYTES_MAX: u64 = 4 << 20;
const REQUEST_BYTES_MAX: usize = 2 << 20;

fn is_anywhere(fleet: &Fleet, bundle: BundleId) -> bool {
    NODES.into_iter().any(|node| fleet.node(node).bundle_path(bundle).exists())
}

#[tokio::test]
async fn bad_input_on_the_way_in_is_refused_and_nothing_is_stored_or_lost() {
    let settings = Settings {
        bundle_bytes_max: BUNDLE_BYTES_MAX,
        request_bytes_max: REQUEST_BYTES_MAX,
        ..Settings::default()
    };
    let fleet = Fleet::start_with(settings).await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    let first = cluster.backup(&fleet.address(1), &[Content::file("a", b"kept")]).await;

    stops_half_way_twice(&fleet, &cluster).await;
    repeated(&fleet, &cluster).await;
    lies(&fleet, &cluster).await;
    unknown_bundles(&fleet, &cluster).await;
    too_large(&fleet, &cluster).await;
    makes_no_sense(&fleet, &cluster).await;

    // After all that, the cluster is where it was and goes on.
    let request = v1::ListPointsRequest::default();
    let mut catalog = fleet.operator(Role::Viewer).catalog(&fleet.address(2));
    let points = catalog.list_points(request).await.answer().expect("a read").points;
    assert_eq!(points.len(), 1);
    assert_eq!(points[0].manifest_id, first.manifest_id);
    let second = cluster.backup(&fleet.address(3), &[Content::file("a", b"and on")]).await;
    assert_eq!(second.sequence, 2);
    fleet.assert_quiet(&[]);
}

/// The stream breaks twice; each time it goes on from where the node has it.
async fn stops_half_way_twice(fleet: &Fleet, cluster: &RawCluster) {
    let address = fleet.address(2);
    let sealed = cluster.seal(&[Content::file("big", &noise(900_000, 11))]).config;
    let lease = cluster.open_upload(&address).await.expect("a lease");
    let third = sealed.file.len() / 3;
    for cut in [third, 2 * third] {
        let (offset, complete) =
            cluster.offset(&address, &lease, sealed.id()).await.expect("an offset");
        assert!(!complete);
        let offset = usize::try_from(offset).expect("small");
        let begin = RawCluster::begin_of(&lease, &sealed, offset as u64);
        let sending = cluster.begin(&address, begin);
        sending.send(&sealed.file[offset..cut]).await;
        // An end before the end, said properly, names where to go on.
        assert_refused(
            "a stream that ends early",
            sending.finish().await,
            Code::Unavailable,
            &[&format!("ended at {cut} of {}", sealed.file.len()), "continue from there"],
        );
        assert!(!is_anywhere(fleet, sealed.id()));
        assert_eq!(
            cluster.offset(&address, &lease, sealed.id()).await.expect("an offset"),
            (cut as u64, false)
        );
    }
    // A continuation that leaves a gap is refused.
    let gap = RawCluster::begin_of(&lease, &sealed, 2 * third as u64 + 10);
    let sending = cluster.begin(&address, gap);
    sending.send(&sealed.file[2 * third + 10..]).await;
    assert_refused("a gap", sending.finish().await, Code::Unavailable, &["begin there"]);
    // The last part alone completes it.
    let sending = cluster.begin(&address, RawCluster::begin_of(&lease, &sealed, 2 * third as u64));
    sending.send(&sealed.file[2 * third..]).await;
    let holders = sending.finish().await.expect("complete").holders;
    assert!(holders.len() >= 2, "{holders:?}");
    let (offset, complete) =
        cluster.offset(&address, &lease, sealed.id()).await.expect("an offset");
    assert_eq!((offset, complete), (sealed.file.len() as u64, true));
    for node in NODES {
        until_so("every node has it whole", async || {
            std::fs::read(fleet.node(node).bundle_path(sealed.id()))
                .is_ok_and(|bytes| BundleId::of(&bytes) == sealed.id())
        })
        .await;
    }
    end(fleet, cluster, &lease).await;
}

/// Sent twice, through two nodes, it is there once and acknowledged twice.
async fn repeated(fleet: &Fleet, cluster: &RawCluster) {
    let sealed = cluster.seal(&[Content::file("b", &noise(30_000, 12))]).config;
    let lease = cluster.open_upload(&fleet.address(1)).await.expect("a lease");
    for node in [1, 1, 2] {
        let holders = cluster.upload_patiently(&fleet.address(node), &lease, &sealed).await;
        assert!(holders.contains(&node) && holders.len() >= 2, "{holders:?}");
    }
    end(fleet, cluster, &lease).await;
}

/// Other bytes than announced, more than announced, a name that is none.
async fn lies(fleet: &Fleet, cluster: &RawCluster) {
    let address = fleet.address(1);
    let sealed = cluster.seal(&[Content::file("c", &noise(30_000, 13))]).config;
    let lease = cluster.open_upload(&address).await.expect("a lease");
    let mut other = sealed.file.clone();
    other[100] ^= 1;
    let sending = cluster.begin(&address, RawCluster::begin_of(&lease, &sealed, 0));
    sending.send(&other).await;
    assert_refused(
        "another digest",
        sending.finish().await,
        Code::DigestMismatch,
        &[&sealed.id().to_string()[..8], "send it again"],
    );
    assert!(!is_anywhere(fleet, sealed.id()));
    assert_eq!(
        cluster.offset(&address, &lease, sealed.id()).await.expect("an offset"),
        (0, false),
        "bytes that were a lie are not built upon"
    );
    let mut longer = sealed.file.clone();
    longer.extend_from_slice(b"and more");
    let sending = cluster.begin(&address, RawCluster::begin_of(&lease, &sealed, 0));
    sending.send(&longer).await;
    assert_refused("longer", sending.finish().await, Code::DigestMismatch, &["longer than"]);
    assert!(!is_anywhere(fleet, sealed.id()));
    // The truth is taken after the lie.
    cluster.upload(&address, &lease, &sealed).await.expect("taken");
    end(fleet, cluster, &lease).await;
}

/// A commit of bundles that nobody has, or that are of another kind than they are named for.
async fn unknown_bundles(fleet: &Fleet, cluster: &RawCluster) {
    let address = fleet.address(3);
    let files = cluster.seal(&[Content::file("d", b"never sent")]);
    let lease = cluster.open_upload(&address).await.expect("a lease");
    for sealed in [&files.key, &files.wraps, &files.manifest] {
        cluster.upload(&address, &lease, sealed).await.expect("taken");
    }
    let request = cluster.commit_request(&lease, cluster.changed(&files));
    let refused = cluster.party.backup(&address).commit_point(request).await.answer();
    assert_refused(
        "a bundle nobody has",
        refused,
        Code::BundleNotDurable,
        &[&files.config.id().to_string()[..8], "upload it first"],
    );
    // Out of order: a point that does not follow the head.
    let mut request = cluster.commit_request(&lease, cluster.changed(&files));
    request.sequence += 1;
    cluster.upload(&address, &lease, &files.config).await.expect("taken");
    let refused = cluster.party.backup(&address).commit_point(request).await.answer();
    assert_refused("not the next point", refused, Code::StaleHead, &["does not follow", "head"]);
    end(fleet, cluster, &lease).await;
    let request = cluster.commit_request(&lease, cluster.changed(&files));
    let refused = cluster.party.backup(&address).commit_point(request).await.answer();
    assert_refused("after its lease", refused, Code::LeaseGone, &["open a new one"]);
}

/// Over the limits of a bundle and of a message.
async fn too_large(fleet: &Fleet, cluster: &RawCluster) {
    let address = fleet.address(1);
    let lease = cluster.open_upload(&address).await.expect("a lease");
    let sealed: Sealed = cluster.seal(&[Content::file("e", &noise(5_000, 14))]).config;
    let mut begin = RawCluster::begin_of(&lease, &sealed, 0);
    begin.bytes = BUNDLE_BYTES_MAX + 1;
    let refused = cluster.begin(&address, begin).finish().await;
    assert_refused(
        "a bundle over the limit",
        refused,
        Code::TooLarge,
        &["4194305", "4194304", "bundle_bytes_max"],
    );
    let finding = v1::Finding {
        kind: "source-unreadable".to_owned(),
        message: "x".repeat(REQUEST_BYTES_MAX + 1),
        remedy: "y".to_owned(),
        severity: v1::Severity::Warning.into(),
        ..Default::default()
    };
    let request = v1::ReportFindingsRequest {
        write_id: Some(cluster.party.write_id()),
        epoch: cluster.epoch,
        raise: vec![finding],
        clear: Vec::new(),
    };
    let refused = cluster.party.backup(&address).report_findings(request).await.answer();
    assert_refused("a message over the limit", refused, Code::TooLarge, &["2097152"]);
    end(fleet, cluster, &lease).await;
}

/// Fields that cannot be what they say.
async fn makes_no_sense(fleet: &Fleet, cluster: &RawCluster) {
    let address = fleet.address(2);
    let mut backup = cluster.party.backup(&address);
    let short = v1::OpenAgentSessionRequest {
        write_id: Some(cluster.party.write_id()),
        instance_id: Bytes::from_static(b"short"),
    };
    let refused = backup.open_agent_session(short).await.answer();
    assert_refused("a short id", refused, Code::InvalidArgument, &["instance_id", "16 bytes"]);
    let unnumbered = v1::OpenUploadRequest {
        write_id: None,
        epoch: cluster.epoch,
        parent_sequence: cluster.head_sequence(),
        ttl_ms: 1000,
    };
    let refused = backup.open_upload(unnumbered).await.answer();
    assert_refused("no write id", refused, Code::InvalidArgument, &["write_id"]);
    let eternal = v1::OpenUploadRequest {
        write_id: Some(cluster.party.write_id()),
        epoch: cluster.epoch,
        parent_sequence: cluster.head_sequence(),
        ttl_ms: u64::MAX,
    };
    let refused = backup.open_upload(eternal).await.answer();
    assert_refused("an eternal lease", refused, Code::InvalidArgument, &["time to live", "a day"]);
    let headless = cluster.begin(&address, v1::UploadBundleBegin::default()).finish().await;
    assert_refused("an upload of nothing", headless, Code::InvalidArgument, &["lease_id"]);
}

async fn end(fleet: &Fleet, cluster: &RawCluster, lease: &tests::raw::Lease) {
    let request = v1::EndUploadRequest {
        write_id: Some(cluster.party.write_id()),
        lease_id: lease.id.clone(),
        failed: false,
    };
    let ended = cluster.party.backup(&fleet.address(1)).end_upload(request).await.answer();
    ended.expect("an upload can be ended");
}

#[tokio::test]
async fn bad_input_a_repeated_write_is_done_once() {
    let fleet = Fleet::start().await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    let files = cluster.seal(&[Content::file("a", b"once")]);
    let address = fleet.address(1);
    let lease = cluster.open_upload(&address).await.expect("a lease");
    for sealed in files.all() {
        cluster.upload(&address, &lease, sealed).await.expect("taken");
    }
    let request = cluster.commit_request(&lease, cluster.changed(&files));
    let point = cluster.commit(&address, request.clone()).await.expect("committed");
    // The same request again, as after a lost answer, through every node.
    for node in NODES {
        let mut backup = cluster.party.backup(&fleet.address(node));
        let again = backup.commit_point(request.clone()).await.answer();
        let again = again.unwrap_or_else(|e| panic!("node {node}: {}: {e}", e.code()));
        let again = again.point.expect("a point");
        assert_eq!(again.sequence, point.sequence);
        assert_eq!(again.log_index, point.log_index, "answered with the first result");
    }
    assert_eq!(bundles_of(&point).len(), 4);
    let admin = fleet.operator(Role::Admin);
    let write_id = admin.write_id();
    let mut ids = Vec::new();
    for node in NODES {
        let request = v1::RegisterClusterRequest {
            write_id: Some(write_id.clone()),
            name: "twice".to_owned(),
            signing_key: vec![7; 32].into(),
            ..Default::default()
        };
        let answer = admin.fleet(&fleet.address(node)).register_cluster(request).await.answer();
        ids.push(answer.expect("registered").cluster.expect("a cluster").cluster_id);
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "one cluster, not three: {ids:?}");
    // Another cluster of the same name is refused.
    let request = v1::RegisterClusterRequest {
        write_id: Some(admin.write_id()),
        name: "twice".to_owned(),
        signing_key: vec![8; 32].into(),
        ..Default::default()
    };
    let refused = admin.fleet(&address).register_cluster(request).await.answer();
    assert_refused("a name twice", refused, Code::AlreadyExists, &["twice", "another name"]);
    fleet.assert_quiet(&[]);
}
