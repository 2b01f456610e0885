//! Every decoder of the coordinators' bytes against bytes that nobody wrote: frozen samples cut,
//! spliced and flipped. Nothing may panic or take memory without end, and what is taken must be what
//! an encoder writes. A bounded run of a stable fuzzer, in every build; `PROPTEST_CASES=1000000
//! cargo test -p coordinator-core fuzz` runs it as long as one likes.

use coordinator_core::codec;
use proptest::prelude::*;
use proptest::sample::Index;

/// One change of a sample.
#[derive(Debug, Clone)]
enum Edit {
    Flip(Index, u8),
    Set(Index, u8),
    Cut(Index, Index),
    Double(Index, Index),
    Insert(Index, Vec<u8>),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        3 => (any::<Index>(), prop_oneof![Just(0), Just(0xff), Just(0x7f), Just(0x80), any::<u8>()])
            .prop_map(|(at, byte)| Edit::Set(at, byte)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Edit::Cut(a, b)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Edit::Double(a, b)),
        1 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..12))
            .prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
    ]
}

fn range(a: Index, b: Index, len: usize) -> std::ops::Range<usize> {
    let (a, b) = (a.index(len + 1), b.index(len + 1));
    a.min(b)..a.max(b)
}

fn changed(sample: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for edit in edits {
        let len = bytes.len();
        match edit {
            Edit::Flip(at, bit) if len > 0 => bytes[at.index(len)] ^= 1 << bit,
            Edit::Set(at, byte) if len > 0 => bytes[at.index(len)] = *byte,
            Edit::Flip(..) | Edit::Set(..) => {}
            Edit::Cut(a, b) => drop(bytes.drain(range(*a, *b, len))),
            Edit::Double(a, b) => {
                let again = bytes[range(*a, *b, len)].to_vec();
                bytes.extend(again);
            }
            Edit::Insert(at, more) => {
                let at = at.index(len + 1);
                bytes.splice(at..at, more.iter().copied());
            }
        }
    }
    bytes
}

fn samples(file: &str) -> Vec<Vec<u8>> {
    crate::fixtures::frozen(file).into_values().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn fuzz_requests_outcomes_and_states(
        at: Index,
        edits in prop::collection::vec(edit(), 0..5),
    ) {
        thread_local! {
            static SAMPLES: [Vec<Vec<u8>>; 3] =
                ["requests.hex", "outcomes.hex", "state.hex"].map(samples);
        }
        SAMPLES.with(|[requests, outcomes, states]| {
            let bytes = changed(&requests[at.index(requests.len())], &edits);
            if let Ok(request) = codec::decode_request(&bytes) {
                prop_assert_eq!(codec::encode_request(&request), bytes);
            }
            let bytes = changed(&outcomes[at.index(outcomes.len())], &edits);
            if let Ok(outcome) = codec::decode_outcome(&bytes) {
                prop_assert_eq!(codec::encode_outcome(&outcome), bytes);
            }
            let bytes = changed(&states[at.index(states.len())], &edits);
            let mut rest = &bytes[..];
            if let Ok(state) = codec::read_state(&mut rest) {
                let read = bytes.len() - rest.len();
                let mut written = Vec::new();
                codec::write_state(&state, &mut written).unwrap();
                // Rows may stand in another order than they are written in.
                prop_assert_eq!(written.len(), read);
            }
            Ok(())
        })?;
    }

    #[test]
    fn fuzz_bytes_from_nowhere(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = codec::decode_request(&bytes);
        let _ = codec::decode_outcome(&bytes);
        let _ = codec::decode_audit_entry(&bytes);
        let _ = codec::decode_sender(&bytes);
        let _ = codec::read_state(&mut &bytes[..]);
    }
}
