//! Shares of the recovery key: any threshold of them rebuild it, fewer leave it open, and every way
//! in which they can be wrong says which one and how.

use bundle::{
    AttestError, CombineError, RecoveryPublicFile, RecoverySecret, RecoveryShare, ShareDigests,
    ShareError, SplitError,
};
use proptest::prelude::*;
use proto_types::Code;
use vsss_rs::Gf256;

use crate::stranger_share::Plain;
use crate::world::Counting;

fn secret(seed: u64) -> RecoverySecret {
    RecoverySecret::generate(&Counting::new(seed))
}

fn split(seed: u64, threshold: u8, total: u8) -> Vec<RecoveryShare> {
    secret(seed).split(threshold, total, &Counting::new(!seed)).unwrap()
}

fn read(text: &str) -> RecoveryShare {
    RecoveryShare::from_text(text).unwrap()
}

fn combine(shares: &[&RecoveryShare]) -> Result<RecoverySecret, CombineError> {
    RecoverySecret::from_shares(shares)
}

/// The error of putting these together.
fn refused(shares: &[&RecoveryShare]) -> CombineError {
    combine(shares).err().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_threshold_of_the_shares_rebuild_the_key(
        seed: u64,
        threshold in 2_u8..=9,
        more in 0_u8..=7,
        order in Just((0..16_usize).collect::<Vec<_>>()).prop_shuffle(),
        extra in 0_usize..=7,
    ) {
        let (total, all) = (threshold + more, split(seed, threshold, threshold + more));
        prop_assert_eq!(all.len(), usize::from(total));
        let given = usize::from(threshold) + extra.min(usize::from(more));
        let chosen: Vec<_> =
            order.iter().filter_map(|at| all.get(*at)).take(given).collect();
        let rebuilt = combine(&chosen).unwrap();
        prop_assert_eq!(rebuilt.public(), secret(seed).public());
        prop_assert_eq!(rebuilt.to_text(), secret(seed).to_text());
        // One fewer than the threshold never does.
        let few = usize::from(threshold) - 1;
        let found = refused(&chosen[..few]);
        let set = *all[0].set();
        prop_assert_eq!(found, CombineError::TooFew { set, found: few });
    }

    /// For shares fewer than the threshold, and any key whatever, there is a share that makes them
    /// rebuild that key: so they do not tell which key it is.
    #[test]
    fn fewer_than_the_threshold_fit_every_key(
        seed: u64,
        threshold in 2_u8..=6,
        other: [u8; 32],
        skip in 0_usize..=3,
    ) {
        let all = split(seed, threshold, threshold + 4);
        let known: Vec<Plain> =
            all[skip..].iter().take(usize::from(threshold) - 1).map(|s| Plain::read(&s.to_text())).collect();
        let unknown = all.last().unwrap().index();
        let last = completing(&known, unknown, &other);

        // The library agrees: with that share they are shares of the other key.
        let raw: Vec<Vec<u8>> = known
            .iter()
            .map(|share| (share.index, share.value))
            .chain([(unknown, last)])
            .map(|(index, value)| [&[index][..], &value].concat())
            .collect();
        prop_assert_eq!(Gf256::combine_bytes(&raw).unwrap(), other);
        // And so does the product, where the shares name the other key.
        let key = Plain::seed_key(&other);
        let texts: Vec<String> = known
            .iter()
            .map(|share| Plain { key: key.prefix, ..share.clone() }.text())
            .chain([Plain { key: key.prefix, index: unknown, value: last, ..known[0].clone() }.text()])
            .collect();
        let shares: Vec<_> = texts.iter().map(|text| read(text)).collect();
        let rebuilt = combine(&shares.iter().collect::<Vec<_>>()).unwrap();
        prop_assert_eq!(rebuilt.public(), key.secret.public());
    }

    #[test]
    fn up_to_four_wrong_characters_are_found(
        seed: u64,
        places in prop::collection::btree_set(8_usize..86, 1..=4),
        shift in prop::collection::vec(1_usize..32, 4),
    ) {
        const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
        let text = split(seed, 2, 2)[0].to_text().replace(' ', "");
        let mut bad = text.clone().into_bytes();
        for (at, shift) in places.into_iter().zip(shift) {
            let old = ALPHABET.iter().position(|c| *c == bad[at]).unwrap();
            bad[at] = ALPHABET[(old + shift) % 32];
        }
        let bad = String::from_utf8(bad).unwrap();
        let error = RecoveryShare::from_text(&bad).err().unwrap();
        prop_assert_eq!(error.code(), Code::Damaged);
    }
}

/// The value of share `index` with which `known` rebuild `seed`. At 0 the polynomial through all of
/// them is the sum of each value times a weight of the indices; solved for the last value.
fn completing(known: &[Plain], index: u8, seed: &[u8; 32]) -> [u8; 32] {
    let indices: Vec<Gf256> = known.iter().map(|s| s.index).chain([index]).map(Gf256).collect();
    let weight = |at: usize| {
        let others = indices.iter().enumerate().filter(|(other, _)| *other != at);
        others.fold(Gf256(1), |product, (_, x)| product * (*x / (*x - indices[at])))
    };
    let mut value = [0; 32];
    for (byte, place) in value.iter_mut().enumerate() {
        let sum = known.iter().enumerate().fold(Gf256(seed[byte]), |rest, (at, share)| {
            rest - weight(at) * Gf256(share.value[byte])
        });
        *place = (sum / weight(known.len())).0;
    }
    value
}

#[test]
fn shares_made_by_another_implementation_rebuild_its_keys() {
    let path = crate::frozen::directory().join("../shares-v1/other-implementation.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<(u8, [u8; 32], u8, [u8; 32])> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let bytes = |at: usize| hex::decode(words[at]).unwrap().try_into().unwrap();
            (words[0].parse().unwrap(), bytes(1), words[2].parse().unwrap(), bytes(3))
        })
        .collect();
    let mut keys = 0;
    for rows in rows.chunk_by(|one, next| one.1 == next.1) {
        let (threshold, seed, ..) = rows[0];
        let key = Plain::seed_key(&seed);
        assert_eq!(rows.len(), usize::from(threshold) + 1);
        let shares: Vec<_> = rows
            .iter()
            .map(|(_, _, index, value)| {
                let (index, value) = (*index, *value);
                Plain { set: [7; 5], key: key.prefix, threshold, total: 64, index, value }.text()
            })
            .map(|text| read(&text))
            .collect();
        // Every choice that leaves one out.
        for left_out in 0..shares.len() {
            let chosen: Vec<_> = shares
                .iter()
                .enumerate()
                .filter(|(at, _)| *at != left_out)
                .map(|(_, s)| s)
                .collect();
            assert_eq!(combine(&chosen).unwrap().public(), key.secret.public());
        }
        keys += 1;
    }
    assert_eq!(keys, 5);
}

#[test]
fn share_texts_are_read_however_they_were_written_down() {
    for share in split(1, 3, 5) {
        let text = share.to_text();
        assert_eq!(text.len(), 8 + 13 * 7, "srshare1 and 13 groups of six");
        let digest = share.digest();
        let joined = text.replace(' ', "");
        for written in [
            text.to_string(),
            joined.clone(),
            text.to_uppercase(),
            text.replace(' ', "-"),
            text.replace(' ', "\r\n  "),
            format!("# share of somebody\n\n{}\n{}\n", &joined[..30], &joined[30..]),
            share.to_file_text().to_string(),
            share.to_file_text().replace('\n', "\r\n"),
        ] {
            let again = read(&written);
            assert_eq!((again.index(), again.digest()), (share.index(), digest), "{written}");
            assert_eq!(again.to_text(), text);
        }
    }
}

#[test]
fn share_texts_that_are_wrong_say_where() {
    let share = &split(1, 3, 5)[1];
    let text = share.to_text().replace(' ', "");
    let error = |text: &str| RecoveryShare::from_text(text).err().unwrap();
    assert_eq!(error(""), ShareError::Missing);
    assert_eq!(error("# only a comment\n \n"), ShareError::Missing);
    assert_eq!(error("srsh"), ShareError::TooShort { found: 0 });
    for len in 8..text.len() {
        assert_eq!(error(&text[..len]), ShareError::TooShort { found: len - 8 });
    }
    assert_eq!(error(&format!("{text}q")), ShareError::TooLong);
    assert_eq!(error(&format!("{text}\n{text}")), ShareError::Character { group: 15 });
    assert_eq!(error(&"q".repeat(1 << 20)), ShareError::NotAShare);
    assert_eq!(error(&format!("srshare1{}", "q".repeat(1 << 20))), ShareError::TooLong);
    for other in
        [secret(1).to_text().as_str(), &secret(1).public().to_text(), "hunter2", "sršhare1"]
    {
        assert_eq!(error(other), ShareError::NotAShare, "{other}");
    }
    for (at, wrong, group) in [(8, 'b', 1), (13, 'i', 1), (14, 'o', 2), (85, '1', 13), (50, 'é', 8)]
    {
        let bad: String =
            text.chars().enumerate().map(|(i, c)| if i == at { wrong } else { c }).collect();
        assert_eq!(error(&bad), ShareError::Character { group }, "{wrong} at {at}");
    }
    // One character misread: every place is named.
    for at in 8..text.len() {
        let mut bad = text.clone().into_bytes();
        bad[at] = if bad[at] == b'q' { b'9' } else { b'q' };
        let bad = String::from_utf8(bad).unwrap();
        let group = (at - 8) / 6 + 1;
        assert_eq!(error(&bad), ShareError::OneCharacter { group }, "at {at}");
    }
    // Two neighbours swapped.
    for at in 8..text.len() - 1 {
        let mut bad = text.clone().into_bytes();
        bad.swap(at, at + 1);
        let bad = String::from_utf8(bad).unwrap();
        if bad != text {
            assert_eq!(error(&bad), ShareError::Checksum, "swapped at {at}");
        }
    }
}

#[test]
fn shares_with_right_checksums_that_cannot_be_are_refused() {
    let good = Plain::read(&split(1, 3, 5)[1].to_text());
    assert!(RecoveryShare::from_text(&good.text()).is_ok());
    let error = |plain: &Plain| RecoveryShare::from_text(&plain.text()).err().unwrap();
    let number = ShareError::Contents { what: "number of shares" };
    for (threshold, total) in [(0, 5), (1, 5), (6, 5), (3, 65), (255, 255)] {
        assert_eq!(error(&Plain { threshold, total, ..good.clone() }), number);
    }
    for index in [0, 6, 255] {
        let found = error(&Plain { index, ..good.clone() });
        assert_eq!(found, ShareError::Contents { what: "index" });
    }
    let found = RecoveryShare::from_text(&good.text_of_version(2)).err().unwrap();
    assert_eq!((found.code(), &found), (Code::UnsupportedVersion, &ShareError::Version(2)));
}

#[test]
fn keys_are_not_split_into_impossible_shares() {
    for (threshold, total) in [(0, 0), (1, 1), (1, 5), (6, 5), (3, 65), (65, 65)] {
        let error = secret(1).split(threshold, total, &Counting::new(2)).err().unwrap();
        assert_eq!(error, SplitError { threshold, total });
    }
    for (threshold, total) in [(2, 2), (64, 64), (2, 64)] {
        assert_eq!(split(1, threshold, total).len(), usize::from(total));
    }
}

#[test]
fn shares_that_do_not_go_together_say_which() {
    let (one, other) = (split(1, 3, 5), split(2, 3, 5));
    // The same key, split again: another set.
    let again = secret(1).split(3, 5, &Counting::new(9)).unwrap();
    let set = *one[0].set();
    assert_eq!(refused(&[]), CombineError::None);
    assert_eq!(refused(&[&one[0]]), CombineError::TooFew { set, found: 1 });
    assert_eq!(refused(&[&one[0], &one[4]]), CombineError::TooFew { set, found: 2 });
    for others in [&other, &again] {
        assert_eq!(
            refused(&[&one[0], &one[1], &others[4]]),
            CombineError::Mixed {
                at: 2,
                index: 5,
                set: *others[0].set(),
                first_index: 1,
                first: set
            }
        );
    }
    let copy = read(&one[1].to_text());
    assert_eq!(
        refused(&[&one[1], &one[0], &copy]),
        CombineError::Twice { at: 2, before: 0, index: 2, set }
    );
    // The checksums of these are right: somebody made them so.
    let mut forged = Plain::read(&one[1].to_text());
    forged.value[31] ^= 1;
    let forged = read(&forged.text());
    assert_eq!(
        refused(&[&one[0], &one[1], &forged]),
        CombineError::Contradiction { at: 2, before: 1, index: 2, set }
    );
    let found = refused(&[&one[0], &forged, &one[2]]);
    assert!(matches!(found, CombineError::OtherKey { set: of, .. } if of == set), "{found}");
    // More than needed, and only one of them wrong: it is found out.
    assert_eq!(
        refused(&[&one[0], &one[4], &forged, &one[2]]),
        CombineError::OddOne { at: 2, index: 2, set }
    );
    // Of two wrong ones none is.
    let mut second = Plain::read(&one[3].to_text());
    second.value[0] ^= 1;
    let found = refused(&[&one[0], &one[4], &forged, &read(&second.text())]);
    assert_eq!(found.code(), Code::WrongKey);
}

#[test]
fn share_errors_say_what_to_do_in_words() {
    let (one, other) = (split(1, 3, 5), split(2, 3, 5));
    let (set, other_set) = (one[0].set().to_string(), other[0].set().to_string());
    let key = secret(1).public().fingerprint().to_string();
    assert!(set.ends_with(&format!(" of recovery key {}", &key[..8])), "{set}");
    for (error, code, said) in [
        (
            refused(&[&one[0]]),
            Code::KeyMissing,
            format!("1 of the 3 shares that rebuild the key is there: any 3 of the 5 of set {set}"),
        ),
        (
            refused(&[&one[0], &other[1]]),
            Code::WrongKey,
            format!(
                "share 2 is of set {other_set}, but share 1 is of set {set}: shares of different \
                 sets do not go together"
            ),
        ),
        (
            refused(&[&one[0], &read(&one[0].to_text())]),
            Code::InvalidArgument,
            format!("share 1 of set {set} was given twice: it counts once"),
        ),
    ] {
        assert_eq!((error.code(), error.to_string()), (code, said));
    }
}

#[test]
fn share_errors_repeat_nothing_of_a_share() {
    let share = &split(1, 3, 5)[1];
    let text = share.to_text().replace(' ', "");
    let hidden: Vec<&str> = (8..text.len() - 6).step_by(6).map(|at| &text[at..at + 6]).collect();
    let mut swapped = text.clone().into_bytes();
    swapped.swap(40, 60);
    for bad in [
        text.replace("srshare1", "srshore1"),
        text[..60].to_owned(),
        format!("{text}q"),
        format!("{}b{}", &text[..40], &text[41..]),
        String::from_utf8(swapped).unwrap(),
    ] {
        let error = RecoveryShare::from_text(&bad).err().unwrap();
        let said = format!("{error} {error:?}");
        assert!(hidden.iter().all(|part| !said.contains(part)), "{said}");
    }
}

#[test]
fn one_share_is_attested_alone() {
    let (one, other) = (split(1, 3, 5), split(2, 3, 5));
    let digests = ShareDigests::of(&one).unwrap();
    let set = *one[0].set();
    assert_eq!(*digests.set(), set);
    for share in &one {
        digests.attest(share).unwrap();
    }
    let found = digests.attest(&other[3]).unwrap_err();
    let other_set = *other[3].set();
    assert_eq!(found, AttestError::OtherSet { index: 4, found: other_set, expected: set });
    assert_eq!(found.code(), Code::WrongKey);
    let mut forged = Plain::read(&one[1].to_text());
    forged.value[0] ^= 0x80;
    let found = digests.attest(&read(&forged.text())).unwrap_err();
    assert_eq!(found, AttestError::OtherShare { index: 2, set });
    assert_eq!(found.code(), Code::Damaged);
    // Only a whole set in order has digests.
    assert!(ShareDigests::of(&[]).is_none());
    assert!(ShareDigests::of(&one[..4]).is_none());
    assert!(ShareDigests::of(&one[1..]).is_none());
}

#[test]
fn recovery_pub_of_version_2_says_which_shares_there_are() {
    for (threshold, total) in [(2, 2), (3, 5), (2, 64)] {
        let shares = split(1, threshold, total);
        let digests = ShareDigests::of(&shares).unwrap();
        let public = secret(1).public();
        let file = RecoveryPublicFile { public, shares: Some(digests.clone()) };
        let text = file.to_text();
        assert!(text.contains("\nstrongroom-recovery-public-v2\n"), "{text}");
        assert!(text.contains(&format!("# {total} shares, set {}, any", shares[0].set().id())));
        assert_eq!(RecoveryPublicFile::from_text(&text).unwrap(), file);
        // Who needs only the public halves reads them from either version.
        assert_eq!(bundle::RecoveryPublic::from_text(&text).unwrap(), public);
        for share in &shares {
            assert!(!text.contains(&hex::encode(Plain::read(&share.to_text()).value)));
        }
    }
    let first = RecoveryPublicFile { public: secret(1).public(), shares: None };
    assert_eq!(first.to_text(), secret(1).public().to_text());
    assert_eq!(RecoveryPublicFile::from_text(&first.to_text()).unwrap(), first);
}

#[test]
fn recovery_pub_of_version_2_with_impossible_numbers_is_damaged() {
    let digests = ShareDigests::of(&split(1, 3, 5)).unwrap();
    let file = RecoveryPublicFile { public: secret(1).public(), shares: Some(digests) };
    for (from, to) in [("threshold 03", "threshold 01"), ("total 05", "total 02")] {
        let bad = file.to_text().replace(from, to);
        let error = RecoveryPublicFile::from_text(&bad).unwrap_err();
        assert!(error.to_string().contains("threshold or total"), "{error}");
        assert_eq!(error.code(), Code::Damaged);
    }
    let more = file.to_text().replace("total 05", "total 06");
    assert_eq!(RecoveryPublicFile::from_text(&more).unwrap_err().code(), Code::Damaged);
}
