use super::*;

const HOUR: i64 = 3_600_000;
/// Some moment, and this node's elapsed time at it.
const NOON: u64 = 1_700_000_000_000;
const AT: u64 = 50_000;

fn voters(count: u64) -> Voters {
    Voters::of((1..=count).map(NodeId::new).collect())
}

fn noon(offset_ms: i64) -> LogTime {
    LogTime::from_millis(NOON.checked_add_signed(offset_ms).unwrap())
}

/// Clocks of nodes 1, 2 … heard just now, by their distance from noon; `None`: not heard.
fn clocks(offsets: &[Option<i64>]) -> Vec<Heard> {
    let nodes = (1..).map(NodeId::new).zip(offsets);
    nodes
        .filter_map(|(node, offset)| Some(Heard { node, clock: noon((*offset)?), at_ms: AT }))
        .collect()
}

fn round<'a>(voters: &'a Voters, heard: &'a [Heard], now_ms: u64) -> Round<'a> {
    let last = noon(-1000);
    Round { now_ms, last, voters, heard, known_elsewhere: &[], is_frozen: false }
}

/// A clock that knows that it is noon.
fn knowing() -> LogClock {
    let mut clock = LogClock::default();
    clock.set(noon(-500), AT - 500);
    clock
}

#[test]
fn invariant_t1_log_time_is_the_median_of_a_majority() {
    let s = Some;
    for (count, offsets, expected) in [
        (1, vec![s(7)], s(7)),
        (3, vec![s(1), s(2), s(3)], s(2)),
        // One clock off by an hour, fast or slow, leading or not, has no effect.
        (3, vec![s(HOUR), s(2), s(3)], s(3)),
        (3, vec![s(1), s(2), s(-HOUR)], s(1)),
        (5, vec![s(-HOUR), s(1), s(2), s(3), s(HOUR)], s(2)),
        (5, vec![s(HOUR), s(HOUR), s(2), s(3), s(1)], s(3)),
        // With one voter away an even number is heard: the middle one nearer to elapsed time.
        (3, vec![s(HOUR), s(3), None], s(3)),
        (3, vec![s(-HOUR), s(3), None], s(3)),
        (3, vec![None, s(4), s(-5)], s(4)),
        (3, vec![None, s(6), s(-5)], s(-5)),
        // Less than a majority tells nothing, however well it agrees.
        (3, vec![s(1), None, None], None),
        (5, vec![s(1), s(1), None, None, None], None),
        (5, vec![s(1), s(2), s(3), None, None], s(2)),
        // Who does not vote has no say.
        (3, vec![None, None, s(1), s(1), s(1)], None),
        (0, vec![s(1)], None),
    ] {
        let found = median(&voters(count), &clocks(&offsets), AT, noon(0));
        assert_eq!(found, expected.map(noon), "{count} {offsets:?}");
    }
    // Both sets of voters must be heard while they change.
    let joint = voters(3).and(&(3..=5).map(NodeId::new).collect());
    assert_eq!(median(&joint, &clocks(&[s(1), s(1), s(1)]), AT, noon(0)), None);
    assert!(median(&joint, &clocks(&[s(1), None, s(2), s(3)]), AT, noon(0)).is_some());
}

#[test]
fn invariant_t1_clocks_heard_long_ago_do_not_count() {
    let heard = clocks(&[Some(0), Some(0), Some(0)]);
    let at = |now_ms| median(&voters(3), &heard, now_ms, noon(0));
    assert_eq!(at(AT + 5000), Some(noon(5000)), "they have gone on meanwhile");
    assert_eq!(at(AT + 5001), None);
}

#[test]
fn invariant_t1_a_step_of_five_minutes_is_followed_and_more_is_a_jump() {
    let limit = i64::try_from(JUMP_MS).unwrap();
    for (step, is_jump) in [(limit, false), (limit + 1, true), (-limit, false), (-limit - 1, true)]
    {
        let mut clock = knowing();
        let heard = clocks(&[Some(step), Some(step), Some(0)]);
        let verdict = clock.round(&round(&voters(3), &heard, AT));
        if is_jump {
            let nodes = [1, 2].map(NodeId::new).into();
            let jump = Jump { by_ms: step, elapsed_known: true, nodes };
            assert_eq!(verdict, Verdict::Jumped(jump), "{step}");
            assert_eq!(clock.now(AT + 10), Some(noon(10)), "it goes on from before the jump");
        } else {
            assert!(matches!(verdict, Verdict::Median { .. }), "{step}: {verdict:?}");
            assert_eq!(clock.now(AT + 10), Some(noon(step + 10)));
        }
    }
}

#[test]
fn invariant_t1_frozen_time_goes_on_by_elapsed_time_until_it_is_set() {
    let mut clock = knowing();
    let voters = voters(3);
    let heard = clocks(&[Some(HOUR), Some(HOUR), Some(HOUR)]);
    let frozen = Round { is_frozen: true, ..round(&voters, &heard, AT) };
    assert_eq!(clock.round(&frozen), Verdict::Frozen);
    assert_eq!(clock.now(AT + 60_000), Some(noon(60_000)));
    // An admin confirms: what the clocks say.
    clock.set(noon(HOUR), AT);
    assert_eq!(clock.round(&round(&voters, &heard, AT)), Verdict::Median { behind_ms: 0 });
    // A leader that knows nothing goes on from the last entry.
    let mut new = LogClock::default();
    assert_eq!(new.round(&frozen), Verdict::Frozen);
    assert_eq!(new.now(AT), Some(noon(-1000)));
}

#[test]
fn invariant_t1_a_new_leader_takes_what_it_or_others_know_of_elapsed_time() {
    let voters = voters(3);
    let heard = clocks(&[Some(HOUR); 3]);
    // Nobody knows how long everything stood: an hour is believed.
    let mut clock = LogClock::default();
    let verdict = clock.round(&round(&voters, &heard, AT));
    assert_eq!(verdict, Verdict::Median { behind_ms: 0 });
    // One that just started and is told by a peer that it was a moment.
    let mut clock = LogClock::default();
    let told = Round { known_elsewhere: &[noon(0)], ..round(&voters, &heard, AT) };
    assert!(matches!(clock.round(&told), Verdict::Jumped(jump) if jump.by_ms == HOUR));
    // What it knows itself is not overruled.
    let mut clock = knowing();
    let told = Round { known_elsewhere: &[noon(HOUR)], ..round(&voters, &heard, AT) };
    assert!(matches!(clock.round(&told), Verdict::Jumped(_)));
    assert_eq!(LogClock::default().now(AT), None);
}

#[test]
fn invariant_t1_after_a_stop_of_all_a_day_ahead_is_a_jump_and_back_stands_still() {
    let voters = voters(3);
    let day = 24 * HOUR;
    // From the last entry, a second before noon.
    for (offset, expected) in [
        (day - 1000, Verdict::Median { behind_ms: 0 }),
        (
            day - 999,
            Verdict::Jumped(Jump {
                by_ms: day + 1,
                elapsed_known: false,
                nodes: [1, 2, 3].map(NodeId::new).into(),
            }),
        ),
        (-HOUR, Verdict::Median { behind_ms: 3_599_000 }),
        (-30 * day, Verdict::Median { behind_ms: 30 * 86_400_000 - 1000 }),
    ] {
        let heard = clocks(&[Some(offset); 3]);
        let mut clock = LogClock::default();
        assert_eq!(clock.round(&round(&voters, &heard, AT)), expected, "{offset}");
    }
    // In an empty log there is nothing to jump from.
    let heard = clocks(&[Some(0); 3]);
    let empty = Round { last: LogTime::ZERO, ..round(&voters, &heard, AT) };
    assert_eq!(LogClock::default().round(&empty), Verdict::Median { behind_ms: 0 });
}

#[test]
fn invariant_t1_without_a_majority_elapsed_time_goes_on() {
    let mut clock = knowing();
    let heard = clocks(&[Some(HOUR), None, None]);
    assert_eq!(clock.round(&round(&voters(3), &heard, AT)), Verdict::TooFew);
    assert_eq!(clock.now(AT), Some(noon(0)));
    // And a leader that knows nothing learns nothing, so that no jump is made of it later.
    let mut clock = LogClock::default();
    assert_eq!(clock.round(&round(&voters(3), &heard, AT)), Verdict::TooFew);
    assert_eq!(clock.now(AT), None);
}
