//! Who may do what: no certificate, another fleet's, another cluster's, too low a role.

use bytes::Bytes;
use proto::identity::{Identity, Party as Who, Role};
use proto::{ApiError, v1};
use proto_types::env::SystemRandom;
use proto_types::{BundleId, Code, FleetId, NodeId};
use tests::client::assert_refused;
use tests::pki::Pki;
use tests::raw::read_bundle;
use tests::sealed::Content;
use tests::{Answer, Cli, Fleet, Party, RawCluster};

use crate::restart::bundles_of;

async fn status(party: &Party, address: &str) -> Result<v1::GetStatusResponse, ApiError> {
    party.fleet(address).get_status(v1::GetStatusRequest { stale: false }).await.answer()
}

#[tokio::test]
async fn bad_input_strangers_and_other_clusters_get_nothing_and_hear_why() {
    let fleet = Fleet::start().await;
    let address = fleet.address(1);
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    let point = harbour.backup(&address, &[Content::file("a", b"harbour's own")]).await;
    let other = RawCluster::register(&fleet, "other").await;

    strangers(&fleet).await;
    other_clusters(&fleet, &harbour, &other, &point).await;
    roles(&fleet).await;
    // Nobody got in the way of who may.
    status(&fleet.operator(Role::Viewer), &address).await.expect("viewers may look");
    harbour.backup(&address, &[Content::file("a", b"and on")]).await;
    fleet.assert_quiet(&[]);
}

async fn strangers(fleet: &Fleet) {
    let address = fleet.address(1);
    let nobody = Party::without_certificate(&fleet.pki.ca(), fleet.id);
    let refused = status(&nobody, &address).await;
    assert_refused("no certificate", refused, Code::Unauthenticated, &["certificate", "give"]);

    // Of another fleet: each side finds the other one out.
    let strange = FleetId::random(&SystemRandom);
    let pki = Pki::create(&fleet.scratch("strange"), strange);
    let admin = Who::Operator { name: "eve".to_owned(), role: Role::Admin };
    let files = pki.issue("eve", admin.clone());
    let refused = status(&Party::with(&files), &address).await;
    assert_refused("trusts another CA", refused, Code::WrongFleet, &["another fleet", "check"]);
    let mixed = Party::trusting(&files, &fleet.pki.ca(), fleet.id);
    let refused = status(&mixed, &address).await;
    assert_refused("signed by another CA", refused, Code::WrongFleet, &["another fleet"]);
    // Of our own authority, but naming another fleet.
    let named = fleet.pki.issue_identity("named", &Identity { fleet: strange, party: admin });
    let refused = status(&Party::trusting(&named, &fleet.pki.ca(), fleet.id), &address).await;
    assert_refused(
        "names another fleet",
        refused,
        Code::WrongFleet,
        &[&strange.short(), &fleet.id.short(), "use a certificate of this fleet"],
    );
    // The same through the command line.
    let cli = Cli::for_fleet(&fleet.scratch("strange-operator"), &fleet.addresses(), &files);
    let done = cli.run(&["status"]).await;
    done.assert_refused("a stranger's status", Code::WrongFleet, &["another fleet"]);
}

async fn other_clusters(
    fleet: &Fleet,
    harbour: &RawCluster,
    other: &RawCluster,
    point: &v1::Point,
) {
    let address = fleet.address(2);
    let mut catalog = other.party.catalog(&address);
    let all = v1::ListPointsRequest::default();
    let listed = catalog.list_points(all).await.answer().expect("its own points");
    assert!(listed.points.is_empty(), "an agent sees only its own cluster's points");
    let by_name =
        v1::ListPointsRequest { cluster_name: harbour.name.clone(), ..Default::default() };
    let refused = catalog.list_points(by_name).await.answer();
    assert_refused("another's list", refused, Code::PermissionDenied, &["own agent"]);
    let request = v1::GetPointRequest {
        cluster_name: harbour.name.clone(),
        which: Some(v1::get_point_request::Which::Newest(true)),
        stale: true,
    };
    let refused = catalog.get_point(request).await.answer();
    assert_refused("another's point", refused, Code::PermissionDenied, &["own agent"]);
    let request = v1::OpenReadLeaseRequest {
        write_id: Some(other.party.write_id()),
        cluster_name: harbour.name.clone(),
        sequence: 1,
        purpose: v1::ReadPurpose::Restore.into(),
        ttl_ms: 1000,
    };
    let refused = catalog.open_read_lease(request).await.answer();
    assert_refused("another's read lease", refused, Code::PermissionDenied, &["own agent"]);
    for bundle in bundles_of(point) {
        let refused = read_bundle(&other.party, &address, bundle).await;
        assert_refused("another's bundle", refused, Code::PermissionDenied, &["own agent"]);
    }
    // Another cluster's upload: not even its existence is told.
    let lease = harbour.open_upload(&address).await.expect("a lease");
    let files = other.seal(&[Content::file("a", b"not mine")]);
    let refused = other.upload(&address, &lease, &files.config).await;
    assert_refused("another's lease", refused, Code::LeaseGone, &["begin a new upload"]);
    let request = v1::RenewUploadRequest {
        write_id: Some(other.party.write_id()),
        lease_id: lease.id.clone(),
    };
    let refused = other.party.backup(&address).renew_upload(request).await.answer();
    assert_refused("another's renewal", refused, Code::LeaseGone, &["begin a new upload"]);
    let unknown = read_bundle(&harbour.party, &address, BundleId::from_bytes([5; 32])).await;
    assert_refused("nobody's bundle", unknown, Code::BundleNotFound, &["05050505"]);
    // Agents are no operators, and no coordinators.
    let refused = status(&harbour.party, &address).await;
    assert_refused("an agent's status", refused, Code::PermissionDenied, &["role viewer"]);
    peer_call(fleet, &harbour.party, "an agent").await;
}

async fn peer_call(fleet: &Fleet, party: &Party, who: &str) {
    let mut peer = v1::peer_client::PeerClient::new(party.channel(&fleet.address(1)));
    let request = v1::FetchBundleRequest { bundle_id: Bytes::from_static(&[5; 32]) };
    let refused = peer.fetch_bundle(request).await.answer();
    assert_refused(who, refused, Code::PermissionDenied, &["coordinator's certificate"]);
    let refused = peer.vote(v1::RaftMessage { payload: Bytes::new() }).await.answer();
    assert_refused(who, refused, Code::PermissionDenied, &["coordinator's certificate"]);
}

async fn roles(fleet: &Fleet) {
    let address = fleet.address(3);
    for role in [Role::Viewer, Role::Operator] {
        let party = fleet.operator(role);
        let request = v1::RegisterClusterRequest {
            write_id: Some(party.write_id()),
            name: "sneaky".to_owned(),
            signing_key: vec![7; 32].into(),
            ..Default::default()
        };
        let refused = party.fleet(&address).register_cluster(request).await.answer();
        let parts = [role.as_str(), "register a cluster", "role admin"];
        assert_refused("registering", refused, Code::PermissionDenied, &parts);
    }
    let viewer = fleet.operator(Role::Viewer);
    let refused = tests::raw::scrub(&viewer, &address).await;
    assert_refused("scrubbing", refused, Code::PermissionDenied, &["scrub", "role operator"]);
    let admin = fleet.operator(Role::Admin);
    peer_call(fleet, &admin, "an admin").await;
    let request = v1::OpenAgentSessionRequest {
        write_id: Some(admin.write_id()),
        instance_id: Bytes::from_static(&[1; 16]),
    };
    let refused = admin.backup(&address).open_agent_session(request).await.answer();
    assert_refused("an admin as agent", refused, Code::PermissionDenied, &["an agent's"]);
    // A coordinator's certificate reads nobody's data.
    let node = fleet.pki.issue("rogue-node", Who::Coordinator(NodeId::new(9)));
    let refused = status(&Party::with(&node), &address).await;
    assert_refused("a node's status", refused, Code::PermissionDenied, &["role viewer"]);
}
