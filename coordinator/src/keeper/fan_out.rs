//! The pieces of one bundle on their way to the peers while they arrive. The majority sets the
//! pace: a peer that others do without may hold an upload up for a bounded time in all, then it is
//! left behind, and repair brings its copy later.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use coordinator_core::Voters;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use proto_types::NodeId;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pieces that wait for one peer: 16 MiB, so that a slow fsync there (a second, at 16 MiB/s)
/// stops nobody. Behind them are one piece in the call and HTTP/2's 4 MiB.
pub(super) const PIECES_TO_PEER: usize = 16;
/// How long one upload waits for one peer that its majority does without, all waits together. In
/// all and not each: a peer that takes a piece every second would never make anybody wait for
/// long, and yet hold a bundle of a gigabyte up for a quarter of an hour. Two seconds are more
/// than an fsync that the disk's cache delays, and nobody notices them on an upload so large that
/// the queue fills at all.
pub(super) const PEER_LAG_MAX: Duration = Duration::from_secs(2);

/// The peers' queues.
pub(super) struct FanOut {
    this: NodeId,
    voters: Voters,
    peers: Vec<Queue>,
}

struct Queue {
    node: NodeId,
    pieces: mpsc::Sender<Bytes>,
    left_behind: CancellationToken,
    /// What is left of [`PEER_LAG_MAX`].
    patience: Duration,
    /// The peer is gone, or was left behind.
    is_over: bool,
}

/// The peer's end of a queue.
pub(super) struct Lane {
    /// What to send; ends with the bundle, or short of it when this node gave up.
    pub(super) pieces: mpsc::Receiver<Bytes>,
    /// Cancelled when nobody waits for this peer any more: its copy is not to be ended but
    /// broken off, since a peer that does not read would never answer either.
    pub(super) left_behind: CancellationToken,
}

impl FanOut {
    /// Queues for nobody yet. `this` is the node that has the bundle by itself.
    pub(super) fn new(this: NodeId, voters: Voters) -> Self {
        Self { this, voters, peers: Vec::new() }
    }

    /// Adds a queue.
    pub(super) fn add(&mut self, node: NodeId) -> Lane {
        let (pieces, receiver) = mpsc::channel(PIECES_TO_PEER);
        let left_behind = CancellationToken::new();
        self.peers.push(Queue {
            node,
            pieces,
            left_behind: left_behind.clone(),
            patience: PEER_LAG_MAX,
            is_over: false,
        });
        Lane { pieces: receiver, left_behind }
    }

    /// Hands a piece to every peer that is not gone or left behind. Returns when all have it, or
    /// a majority has it and the patience with the others is at its end.
    pub(super) async fn send(&mut self, piece: &Bytes) {
        let taken = self.send_to_majority(piece).await;
        let rest = self.peers.iter_mut().filter(|queue| !taken.contains(&queue.node));
        join_all(rest.map(|queue| queue.send_within_patience(piece.clone()))).await;
        self.peers.retain(|queue| !queue.is_over);
    }

    /// Waits without a limit of its own until a majority has taken the piece, or nobody is left to
    /// wait for. (A peer's call has its own deadline; when it ends, the queue does.) Returns who
    /// has it.
    async fn send_to_majority(&self, piece: &Bytes) -> BTreeSet<NodeId> {
        let mut taken = BTreeSet::from([self.this]);
        // What is not sent when this is dropped was not sent at all: `send` is cancel safe.
        let mut sending: FuturesUnordered<_> = self
            .peers
            .iter()
            .map(|queue| async move { (queue.node, queue.pieces.send(piece.clone()).await) })
            .collect();
        while !self.voters.have_majority(&taken) {
            match sending.next().await {
                Some((node, Ok(()))) => {
                    taken.insert(node);
                }
                Some((_, Err(_))) => {}
                None => break,
            }
        }
        taken
    }
}

impl Queue {
    async fn send_within_patience(&mut self, piece: Bytes) {
        let began = Instant::now();
        let sent = tokio::time::timeout(self.patience, self.pieces.send(piece)).await;
        self.patience = self.patience.saturating_sub(began.elapsed());
        match sent {
            Ok(Ok(())) => {}
            // Its task has ended: its result tells why.
            Ok(Err(_)) => self.is_over = true,
            Err(_) => {
                tracing::debug!(peer = self.node.get(), "left a peer's copy behind");
                self.left_behind.cancel();
                self.is_over = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECES: usize = 200;

    /// A coordinator that takes a piece and then nothing for `pause`.
    fn peer(mut lane: Lane, pause: Duration) -> tokio::task::JoinHandle<usize> {
        tokio::spawn(async move {
            let mut taken = 0;
            loop {
                tokio::select! {
                    piece = lane.pieces.recv() => match piece {
                        Some(_) => taken += 1,
                        None => return taken,
                    },
                    () = lane.left_behind.cancelled() => return taken,
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = lane.left_behind.cancelled() => return taken,
                }
            }
        })
    }

    /// Node 1 of three voters.
    fn three() -> FanOut {
        FanOut::new(NodeId::new(1), Voters::of([1, 2, 3].map(NodeId::new).into()))
    }

    /// Sends a bundle from node 1 of three to the other two; how long it took, and how many pieces
    /// each of them got.
    async fn upload(pauses: [Duration; 2]) -> (Duration, [usize; 2]) {
        let mut fan_out = three();
        let peers = [2, 3].map(|node| fan_out.add(NodeId::new(node)));
        let [second, third] = peers;
        let peers = [peer(second, pauses[0]), peer(third, pauses[1])];
        let began = Instant::now();
        for _ in 0..PIECES {
            fan_out.send(&Bytes::from_static(b"piece")).await;
        }
        let took = began.elapsed();
        drop(fan_out);
        let [second, third] = peers;
        (took, [second.await.unwrap(), third.await.unwrap()])
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_trickles_is_left_behind_and_the_other_gets_everything() {
        // Never longer than a second for one piece, which no limit on a single wait would find.
        let (took, [fast, slow]) = upload([Duration::ZERO, Duration::from_secs(1)]).await;
        assert_eq!(fast, PIECES);
        assert!(slow < PIECES_TO_PEER, "{slow} pieces were waited for");
        assert!(took <= PEER_LAG_MAX, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_costs_no_more() {
        let (took, [fast, _]) = upload([Duration::ZERO, Duration::from_secs(1 << 20)]).await;
        assert_eq!(fast, PIECES);
        assert!(took <= PEER_LAG_MAX, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_peer_that_makes_the_majority_is_waited_for() {
        // Both are slow: the faster one sets the pace, and is never given up.
        let pace = Duration::from_millis(500);
        let (took, [faster, slower]) = upload([pace, Duration::from_secs(60)]).await;
        assert_eq!(faster, PIECES);
        assert!(slower < PIECES);
        let pieces = u32::try_from(PIECES - PIECES_TO_PEER).unwrap();
        assert!(took >= pace * (pieces - 1), "{took:?}");
        assert!(took <= pace * pieces + PEER_LAG_MAX, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn while_voters_change_both_majorities_set_the_pace_and_learners_never() {
        // Node 2 is to replace node 4, which has gone; node 5 only learns, and is fast.
        let sets = [[1, 3, 4], [1, 2, 3]].map(|set| set.map(NodeId::new).into());
        let mut fan_out = FanOut::new(NodeId::new(1), Voters::joint(sets));
        let pace = Duration::from_millis(500);
        let needed = peer(fan_out.add(NodeId::new(3)), pace);
        let idle = peer(fan_out.add(NodeId::new(2)), Duration::from_secs(1 << 20));
        let learner = peer(fan_out.add(NodeId::new(5)), Duration::ZERO);
        for _ in 0..PIECES {
            fan_out.send(&Bytes::from_static(b"piece")).await;
        }
        drop(fan_out);
        assert_eq!((needed.await.unwrap(), learner.await.unwrap()), (PIECES, PIECES));
        assert!(idle.await.unwrap() < PIECES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_a_little_slower_keeps_its_copy() {
        let (took, got) = upload([Duration::ZERO, Duration::from_millis(5)]).await;
        assert_eq!(got, [PIECES, PIECES]);
        assert!(took < PEER_LAG_MAX, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_gone_is_not_waited_for() {
        let mut fan_out = three();
        drop(fan_out.add(NodeId::new(2)));
        let alive = peer(fan_out.add(NodeId::new(3)), Duration::ZERO);
        for _ in 0..PIECES {
            fan_out.send(&Bytes::from_static(b"piece")).await;
        }
        assert_eq!(fan_out.peers.len(), 1);
        drop(fan_out);
        assert_eq!(alive.await.unwrap(), PIECES);
    }
}
