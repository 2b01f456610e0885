//! A book of several segments on a disk that is tampered with.

use std::path::Path;

use coordinator_core::{
    Actor, Command, ConfirmTime, Event, InitFleet, LogContext, OperatorRole, RaiseLevel,
    RecoveryPublicKey, Request, Sender, State, Voters, apply,
};
use proto_types::{Level, LogIndex, LogTime, NodeId};
use storage::disk::sim::SimDisk;
use storage::home::HomeIdentity;

use super::*;

const FLEET: FleetId = FleetId::from_bytes([7; 16]);

fn book(disk: &SimDisk) -> Book {
    let identity = HomeIdentity { fleet: FLEET, node: NodeId::new(1) };
    let home = DataDir::open_or_create(Arc::new(disk.clone()), Path::new("/home"), identity);
    Book::new(home.unwrap())
}

/// A state with so many entries, whose segments are in the book.
fn filled(book: &Book, entries: u64) -> State {
    let mut state = State::new();
    let voters = Voters::of([NodeId::new(1)].into());
    let actor = Actor::Operator { name: "ann".to_owned(), role: OperatorRole::Admin };
    let sender = Sender { actor, certificate: Some([5; 32]), via: NodeId::new(1) };
    let recovery = RecoveryPublicKey { hpke: [1; 32], signing: [2; 32] };
    let init = InitFleet { fleet: FLEET, name: "f".to_owned(), recovery };
    let first = [Command::InitFleet(init), Command::RaiseLevel(RaiseLevel { to: Level::new(2) })];
    let rest =
        std::iter::repeat_n(Command::ConfirmTime(ConfirmTime), usize::try_from(entries).unwrap());
    for (command, index) in first.into_iter().chain(rest).zip(1..) {
        let sender = (index > 2).then(|| sender.clone());
        let request = Request { session: None, time: LogTime::from_millis(index), sender, command };
        let log = LogContext { index: LogIndex::new(index), voters: &voters };
        for event in apply(&mut state, &request, &log).events {
            if let Event::AuditSegmentClosed { segment } = event {
                book.close(&segment).unwrap();
            }
        }
    }
    assert_eq!(state.audit().head().number, entries);
    state
}

fn numbers(book: &Book, state: &State, before: u64, most: usize) -> (Vec<u64>, u64) {
    let mut found = Vec::new();
    let next = book
        .backwards(state.audit(), before, 2, |(entry, _)| {
            found.push(entry.number);
            found.len() < most
        })
        .unwrap();
    (found, next)
}

#[test]
fn audit_book_is_read_from_its_end_to_its_beginning() {
    let disk = SimDisk::new();
    let book = book(&disk);
    let state = filled(&book, 4 * PER_SEGMENT + 10);
    let log = state.audit();
    let verdict = book.check(log, log.head().number);
    assert!(verdict.problem.is_none(), "{verdict:?}");
    assert_eq!((verdict.compared, verdict.segments), (Some(log.head()), 4));
    // A hash at any entry, in the state or in a file, is that of whoever stopped there.
    for number in [0, 1, 1023, 1024, 1025, 4096, 4097, 4106] {
        let other = filled(&super::tests::book(&SimDisk::new()), number);
        let expected = if number == 0 { AuditHead::first(FLEET) } else { other.audit().head() };
        assert_eq!(book.check(log, number).compared, Some(expected), "{number}");
    }
    assert_eq!(book.check(log, 5000).compared, None);

    assert_eq!(numbers(&book, &state, u64::MAX, 3), (vec![4106, 4105, 4104], 4104));
    assert_eq!(numbers(&book, &state, 4104, 2), (vec![4103, 4102], 4102));
    assert_eq!(numbers(&book, &state, 4098, 2), (vec![4097, 4096], 4096));
    assert_eq!(numbers(&book, &state, 1026, 3), (vec![1025, 1024, 1023], 1023));
    assert_eq!(numbers(&book, &state, 3, 9), (vec![2, 1], 0));
    assert_eq!(numbers(&book, &state, 1, 9), (vec![], 0));
    // No more than so many files at one time, and from there on.
    let (found, next) = numbers(&book, &state, u64::MAX, 10_000);
    assert_eq!((found.len(), next), (10 + 2048, 2049));
    let (rest, next) = numbers(&book, &state, next, 10_000);
    assert_eq!((rest.first(), rest.last(), next), (Some(&2048), Some(&1), 0));
    let entries = book.entries_of(log.base(), 1).unwrap();
    assert_eq!((entries[0].0.number, entries.len()), (1025, 1024));
    let empty = State::new();
    assert_eq!(numbers(&book, &empty, u64::MAX, 9), (vec![], 0));
    assert!(book.check(empty.audit(), 0).problem.is_none());
}

#[test]
fn audit_tampering_is_found_and_only_the_true_segment_is_taken_back() {
    let (disk, other_disk) = (SimDisk::new(), SimDisk::new());
    let (first_book, other) = (book(&disk), book(&other_disk));
    let state = filled(&first_book, 3 * PER_SEGMENT + 1);
    let _ = filled(&other, 3 * PER_SEGMENT + 1);
    let log = state.audit();
    let file = |n: u64| Path::new("/home/audit").join(format!("{n:016x}.audit"));
    drop(first_book);
    for (segment, at) in [(0, 30), (1, 5000), (2, 90)] {
        disk.flip_bit(&file(segment), at, 3).unwrap();
        let book = book(&disk);
        let verdict = book.check(log, log.head().number);
        let problem = verdict.problem.expect("it is found");
        assert_eq!(problem.segment, segment);
        assert!(matches!(problem.lack, Lack::Damaged(_)), "{problem}");
        // Nothing of it is told, and nothing of what is before it.
        let mut told = 0;
        let listed = book.backwards(log, u64::MAX, 9, |(entry, _)| {
            assert!(entry.number > last(segment));
            told += 1;
            true
        });
        assert_eq!(listed.unwrap_err().segment, segment);
        assert_eq!(told, log.head().number - last(segment));
        assert_eq!(book.check(log, last(segment) - 1).compared, None);
        // Neither is what another node may have had changed.
        book.set_aside(segment, "changed").unwrap();
        assert_eq!(book.damages()[0].segment, segment);
        let good = other.raw(segment).unwrap().unwrap();
        let mut bad = good.clone();
        bad[200] ^= 1;
        assert!(matches!(book.take(&bad, problem.end), Err(Lack::Damaged(_))));
        let wrong = other.raw((segment + 1) % 3).unwrap().unwrap();
        assert!(book.take(&wrong, problem.end).is_err());
        let missing = book.check(log, 0).problem.expect("it is not there");
        assert!(matches!(missing.lack, Lack::Missing));
        book.take(&good, problem.end).unwrap();
        assert!(book.check(log, 0).problem.is_none());
    }
}

/// A node that starts replays its log: what a segment should be, it writes again.
#[test]
fn audit_replay_puts_a_changed_file_aside_and_writes_it_anew() {
    let disk = SimDisk::new();
    let first_book = book(&disk);
    let state = filled(&first_book, PER_SEGMENT);
    let file = Path::new("/home/audit/0000000000000000.audit");
    drop(first_book);
    disk.flip_bit(file, 1000, 0).unwrap();
    let book = book(&disk);
    assert!(filled(&book, PER_SEGMENT) == state);
    assert_eq!(book.damages().len(), 1);
    assert!(book.check(state.audit(), 0).problem.is_none());
    let aside = disk.files().into_iter().filter(|f| f.to_string_lossy().ends_with(".damaged"));
    assert_eq!(aside.count(), 1, "people can look at what was done");
    book.told(&book.damages()[0]);
    assert!(filled(&book, PER_SEGMENT) == state);
    assert_eq!(book.damages(), [], "the same again is no damage");
}
