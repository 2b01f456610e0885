//! A reader written from `docs/formats.md` alone, with general-purpose crates and nothing of this
//! package: what the document leaves out, or says wrongly, fails here. It opens the frozen files
//! from the recovery key (and once from the KEK) down to the items' bytes.

use std::fs;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use ed25519_dalek::{Signature, VerifyingKey};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use hpke::{Deserializable, Kem, OpModeR};
use sha2::{Digest, Sha256};

use crate::frozen::directory;

/// A cursor over bytes, little-endian.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len);
        self.0 = rest;
        head
    }
    fn number(&mut self, len: usize) -> u64 {
        self.bytes(len).iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }
    fn varint(&mut self) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = self.number(1);
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
        }
        unreachable!()
    }
}

/// A protobuf message as (field number, varint or bytes).
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

struct Message(Vec<(u64, Value)>);

impl Message {
    fn parse(bytes: &[u8]) -> Self {
        let mut cursor = Cursor(bytes);
        let mut fields = Vec::new();
        while !cursor.0.is_empty() {
            let tag = cursor.varint();
            let value = match tag & 7 {
                0 => Value::Number(cursor.varint()),
                2 => {
                    let len = cursor.varint() as usize;
                    Value::Bytes(cursor.bytes(len).to_vec())
                }
                other => panic!("wire type {other}"),
            };
            fields.push((tag >> 3, value));
        }
        Self(fields)
    }
    fn all(&self, field: u64) -> Vec<Vec<u8>> {
        let bytes = |value: &Value| match value {
            Value::Bytes(bytes) => bytes.clone(),
            Value::Number(_) => panic!("field {field} is a number"),
        };
        self.0.iter().filter(|(tag, _)| *tag == field).map(|(_, value)| bytes(value)).collect()
    }
    fn bytes(&self, field: u64) -> Vec<u8> {
        self.all(field).pop().unwrap_or_default()
    }
    fn number(&self, field: u64) -> u64 {
        match self.0.iter().find(|(tag, _)| *tag == field) {
            Some((_, Value::Number(number))) => *number,
            None => 0,
            Some(_) => panic!("field {field} is bytes"),
        }
    }
}

struct File {
    bytes: Vec<u8>,
    kind: u8,
    fleet: Vec<u8>,
    cluster: Vec<u8>,
    lineage: Vec<u8>,
    sequence: Vec<u8>,
    blob_count: Vec<u8>,
    predecessor: Vec<u8>,
    base: Vec<u8>,
    recovery_key: Vec<u8>,
    kek_generation: Vec<u8>,
    dek_ids: Vec<Vec<u8>>,
    records: Vec<Vec<u8>>,
}

/// Reads and verifies a file as the section "The file" says.
fn open(name: &str) -> File {
    let bytes = fs::read(directory().join(name)).unwrap();
    let mut lead = Cursor(&bytes[..16]);
    assert_eq!(lead.bytes(8), b"strgroom");
    assert_eq!(lead.number(2), 1);
    let kind = lead.number(1) as u8;
    assert_eq!(lead.bytes(5), [0; 5]);

    let (rest, magic) = bytes.split_at(bytes.len() - 8);
    assert_eq!(magic, b"SRTRAIL1");
    let (rest, header_len) = rest.split_at(rest.len() - 4);
    let (rest, signature) = rest.split_at(rest.len() - 64);
    let header_len = Cursor(header_len).number(4) as usize;
    let (body, header_bytes) = rest.split_at(rest.len() - header_len);

    let mut header = Cursor(header_bytes);
    assert_eq!((header.number(2), header.number(2)), (1, 1));
    assert_eq!(header.number(1), u64::from(kind));
    assert_eq!(header.number(1), 0);
    let fleet = header.bytes(16).to_vec();
    let cluster = header.bytes(16).to_vec();
    let lineage = header.bytes(4).to_vec();
    let sequence = header.bytes(8).to_vec();
    let (_epoch, _created) = (header.number(8), header.number(8));
    assert_eq!(header.number(8), body.len() as u64);
    let blob_count = header.bytes(4).to_vec();
    assert_eq!(header.bytes(32), Sha256::digest(body).as_slice());
    let signer = header.bytes(32);
    let predecessor = header.bytes(32).to_vec();
    let base = header.bytes(32).to_vec();
    let recovery_key = header.bytes(32).to_vec();
    let kek_generation = header.bytes(4).to_vec();
    let deks = header.number(2);
    let dek_ids = (0..deks).map(|_| header.bytes(16).to_vec()).collect();
    assert!(header.0.is_empty());

    let signed = [b"strongroom bundle header v1\0", header_bytes].concat();
    VerifyingKey::from_bytes(signer.try_into().unwrap())
        .unwrap()
        .verify_strict(&signed, &Signature::from_slice(signature).unwrap())
        .unwrap();

    let mut records = Vec::new();
    let mut rest = Cursor(&body[16..]);
    while !rest.0.is_empty() {
        let len = Cursor(rest.0).number(4) as usize;
        records.push(rest.bytes(if kind == 4 { 4 + len } else { 4 + 12 + len }).to_vec());
    }
    assert_eq!(records.len() as u64, Cursor(&blob_count).number(4));
    File {
        kind,
        fleet,
        cluster,
        lineage,
        sequence,
        blob_count,
        predecessor,
        base,
        recovery_key,
        kek_generation,
        dek_ids,
        records,
        bytes: bytes.clone(),
    }
}

/// Length-prefixed fields.
fn list(fields: &[&[u8]]) -> Vec<u8> {
    let field = |field: &&[u8]| [&(field.len() as u32).to_le_bytes()[..], field].concat();
    fields.iter().flat_map(field).collect()
}

fn hkdf(key: &[u8], info: &[&[u8]]) -> [u8; 32] {
    let mut okm = [0; 32];
    Hkdf::<Sha256>::new(None, key).expand(&info.concat(), &mut okm).unwrap();
    okm
}

fn gcm(key: &[u8; 32], nonce: &[u8], msg: &[u8], aad: &[u8]) -> Vec<u8> {
    let cipher = Aes256Gcm::new(key.into());
    cipher.decrypt(nonce.try_into().unwrap(), Payload { msg, aad }).unwrap()
}

/// A sealed record down to its plaintext.
fn unseal(key: &[u8; 32], aad: &[u8], record: &[u8]) -> Vec<u8> {
    let encoded = gcm(key, &record[4..16], &record[16..], aad);
    match encoded[0] {
        0 => encoded[1..].to_vec(),
        1 => zstd::bulk::decompress(&encoded[1..], 16 << 20).unwrap(),
        2 => {
            let len = Cursor(&encoded[1..]).number(8) as usize;
            assert!([256, 1024, 4096].contains(&(encoded.len() - 1)));
            assert!(encoded[9 + len..].iter().all(|byte| *byte == 0));
            encoded[9..9 + len].to_vec()
        }
        other => panic!("encoding {other}"),
    }
}

/// The value of a line of a key file.
fn value(name: &str, part: &str) -> [u8; 32] {
    let text = fs::read_to_string(directory().join(name)).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut checked = Sha256::new_with_prefix(b"strongroom key file v1\0");
    checked.update(lines[0]);
    checked.update([0]);
    for line in &lines[1..lines.len() - 1] {
        checked.update(hex::decode(line.split_once(' ').unwrap().1).unwrap());
    }
    let checksum = hex::encode(&checked.finalize()[..8]);
    assert_eq!(lines.last().unwrap(), &format!("checksum {checksum}"));
    let line = lines.iter().find_map(|line| line.strip_prefix(&format!("{part} ")));
    hex::decode(line.unwrap()).unwrap().try_into().unwrap()
}

const SUITE: &[u8] = &[1, 0];

fn content_key_by_kek(wraps: &File) -> Vec<u8> {
    let kek = value("strongroom-store-secret", "key");
    let mut wrap = Cursor(&wraps.records[0][4..]);
    assert_eq!(wrap.bytes(4), [1, 0, 1, 0]);
    assert_eq!(wrap.bytes(4), wraps.kek_generation);
    let (commitment, nonce, sealed) = (wrap.bytes(32), wrap.bytes(12), wrap.bytes(48));
    assert!(wrap.0.is_empty());
    assert_eq!(hkdf(&kek, &[b"strongroom kek wrap commitment v1", nonce]), commitment);
    let aad = list(&[
        b"strongroom kek wrap v1",
        SUITE,
        &wraps.fleet,
        &wraps.cluster,
        &wraps.lineage,
        &wraps.kek_generation,
        &wraps.predecessor,
    ]);
    gcm(&hkdf(&kek, &[b"strongroom kek wrap key v1", nonce]), nonce, sealed, &aad)
}

fn content_key_by_recovery(wraps: &File) -> Vec<u8> {
    type X25519 = hpke::kem::X25519HkdfSha256;
    let seed = value("recovery.key", "seed");
    let (private, public) = X25519::derive_keypair(&hkdf(&seed, &[b"strongroom recovery hpke v1"]));
    let signing = hkdf(&seed, &[b"strongroom recovery signing v1"]);
    let signing = ed25519_dalek::SigningKey::from_bytes(&signing).verifying_key();
    let public = hpke::Serializable::to_bytes(&public);
    assert_eq!(value("recovery.pub", "hpke"), public.as_slice());
    assert_eq!(value("recovery.pub", "signing"), signing.to_bytes());
    let fingerprint = [b"strongroom recovery public v1\0", &public[..], &signing.to_bytes()];
    let fingerprint = Sha256::digest(fingerprint.concat());

    let mut wrap = Cursor(&wraps.records[1][4..]);
    assert_eq!(wrap.bytes(2), [2, 0]);
    let suite = wrap.bytes(6);
    assert_eq!(suite, [0x20, 0, 1, 0, 2, 0]);
    assert_eq!(wrap.bytes(32), fingerprint.as_slice());
    assert_eq!(wraps.recovery_key, fingerprint.as_slice());
    let (encapsulated, commitment, sealed) = (wrap.bytes(32), wrap.bytes(32), wrap.bytes(48));
    assert!(wrap.0.is_empty());
    let context = list(&[
        b"strongroom recovery wrap v1",
        suite,
        &wraps.fleet,
        &wraps.cluster,
        &wraps.lineage,
        &wraps.predecessor,
        &fingerprint,
    ]);
    let encapsulated = <X25519 as Kem>::EncappedKey::from_bytes(encapsulated).unwrap();
    let mut receiver =
        hpke::setup_receiver::<hpke::aead::AesGcm256, hpke::kdf::HkdfSha256, X25519>(
            &OpModeR::Base,
            &private,
            &encapsulated,
            &context,
        )
        .unwrap();
    let mut exported = [0; 32];
    receiver.export(b"strongroom recovery wrap commitment v1", &mut exported).unwrap();
    assert_eq!(exported, commitment);
    receiver.open(sealed, &context).unwrap()
}

struct Keys {
    deks: Vec<(Vec<u8>, Vec<u8>)>,
    blob_id_secret: Vec<u8>,
    secrets: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Keys {
    fn dek(&self, id: &[u8]) -> &[u8] {
        &self.deks.iter().find(|(found, _)| found == id).unwrap().1
    }
    fn blob_id(&self, plaintext: &[u8]) -> Vec<u8> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.blob_id_secret).unwrap();
        mac.update(plaintext);
        mac.finalize().into_bytes().to_vec()
    }
}

fn keys(file: &File, content_key: &[u8]) -> Keys {
    assert_eq!(file.kind, 2);
    let mut plain = file.records.iter().enumerate().map(|(index, record)| {
        let index = (index as u32).to_le_bytes();
        let kind: &[u8] = if index == [0; 4] { &[3] } else { &[2] };
        let aad = list(&[
            b"strongroom key bundle record v1",
            SUITE,
            &file.fleet,
            &file.cluster,
            &file.lineage,
            &file.sequence,
            kind,
            &index,
            &file.blob_count,
        ]);
        unseal(&hkdf(content_key, &[b"strongroom key bundle record key v1", &index]), &aad, record)
    });
    let keyring = Message::parse(&plain.next().unwrap());
    assert_eq!(keyring.number(1), 0);
    let kek = Message::parse(&keyring.all(2)[0]);
    assert_eq!(kek.number(1), 1);
    assert_eq!(kek.bytes(2), value("strongroom-store-secret", "key"));
    assert_eq!(keyring.bytes(5), value("signing.key", "seed"));
    let deks: Vec<_> = keyring.all(3).iter().map(|dek| Message::parse(dek)).collect();
    let generations: Vec<_> = deks.iter().map(|dek| dek.number(2)).collect();
    assert_eq!(generations, [1, 2]);
    assert_eq!(deks[0].number(3), 1_790_000_000_000);
    let keys = Keys {
        deks: deks.iter().map(|dek| (dek.bytes(1), dek.bytes(4))).collect(),
        blob_id_secret: keyring.bytes(4),
        secrets: plain.map(|secret| (secret[..32].to_vec(), secret[32..].to_vec())).collect(),
    };
    for (id, secret) in &keys.secrets {
        assert_eq!(*id, keys.blob_id(secret));
    }
    keys
}

/// The messages of a manifest: head, items, removed keys.
fn manifest(file: &File, keys: &Keys) -> Vec<Message> {
    assert_eq!((file.kind, file.dek_ids.len()), (3, 1));
    let dek_id = &file.dek_ids[0];
    let mut stream = Vec::new();
    for (index, record) in file.records.iter().enumerate() {
        let index = (index as u32).to_le_bytes();
        let aad = list(&[
            b"strongroom manifest record v1",
            SUITE,
            &file.fleet,
            &file.cluster,
            &file.lineage,
            dek_id,
            &[4],
            &file.sequence,
            &file.predecessor,
            &file.base,
            &index,
            &file.blob_count,
        ]);
        let info: [&[u8]; 3] = [b"strongroom manifest record key v1", &file.sequence, &index];
        stream.extend(unseal(&hkdf(keys.dek(dek_id), &info), &aad, record));
    }
    let mut messages = Vec::new();
    let mut cursor = Cursor(&stream);
    while !cursor.0.is_empty() {
        let len = cursor.varint() as usize;
        messages.push(Message::parse(cursor.bytes(len)));
    }
    let head = &messages[0];
    assert_eq!(head.number(1), Cursor(&file.sequence).number(8));
    assert_eq!(messages.len() as u64, 1 + head.number(11) + head.number(12));
    messages
}

/// An item's content, holes as their length in text.
fn content(item: &Message, head: &Message, config: &File, keys: &Keys) -> Vec<u8> {
    let mut content = Vec::new();
    for piece in item.all(13).iter().map(|piece| Message::parse(piece)) {
        let id = piece.bytes(2);
        if piece.number(1) > 0 {
            content.extend(format!("[{} zeros]", piece.number(1)).into_bytes());
        } else if piece.number(4) == 0 {
            content.extend(&keys.secrets.iter().find(|(found, _)| *found == id).unwrap().1);
        } else {
            let bundle = &head.all(4)[piece.number(4) as usize - 1];
            assert_eq!(bundle, Sha256::digest(&config.bytes).as_slice());
            let dek_id = &head.all(5)[piece.number(5) as usize];
            let offset = piece.number(6) as usize;
            let record = &config.bytes[offset..offset + 16 + piece.number(7) as usize];
            let aad = list(&[
                b"strongroom blob v1",
                SUITE,
                &config.fleet,
                &config.cluster,
                dek_id,
                &[1],
                &id,
            ]);
            let key = hkdf(keys.dek(dek_id), &[b"strongroom blob key v1", &id]);
            let plain = unseal(&key, &aad, record);
            assert_eq!(plain.len() as u64, piece.number(3));
            assert_eq!(id, keys.blob_id(&plain));
            content.extend(plain);
        }
    }
    content
}

#[test]
fn a_reader_written_from_the_document_opens_the_frozen_files() {
    let (config, wraps) = (open("config.bundle"), open("wraps.bundle"));
    assert_eq!((config.kind, wraps.kind), (1, 4));
    let content_key = content_key_by_recovery(&wraps);
    assert_eq!(content_key_by_kek(&wraps), content_key);
    let key_file = open("key.bundle");
    assert_eq!(wraps.predecessor, Sha256::digest(&key_file.bytes).as_slice());
    let keys = keys(&key_file, &content_key);

    let full = manifest(&open("full.manifest"), &keys);
    let head = &full[0];
    assert_eq!(head.bytes(2), wraps.predecessor);
    assert_eq!(head.all(6), [b"files".to_vec()]);
    let proof = Message::parse(&head.all(7)[0]);
    assert_eq!((proof.bytes(1), proof.number(2)), (b"files".to_vec(), 1));
    assert_eq!((head.number(8), head.number(9), head.number(10)), (8, 6, (1 << 40) + 503));
    let found: Vec<_> = full[1..]
        .iter()
        .map(|item| {
            let path = item.bytes(2).escape_ascii().to_string();
            let bytes = content(item, head, &config, &keys).escape_ascii().to_string();
            (path, item.number(3), bytes.chars().take(30).collect::<String>())
        })
        .collect();
    let expected = [
        ("etc", 2, ""),
        ("etc/map.yaml", 1, r"apiVersion: v1\nkind: ConfigMa"),
        ("etc/sparse", 1, "[1099511627776 zeros]x[5 zeros"),
        ("etc/token", 1, r"token: hunter2\n"),
        ("keys/store", 1, "ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ"),
        ("keys/unseal", 1, "unseal key number one"),
        ("link", 3, ""),
        (r"name\xff", 1, ""),
    ];
    let expected = expected.map(|(path, kind, text)| (path.to_owned(), kind, text.to_owned()));
    assert_eq!(found, expected);
    let map = &full[2];
    assert_eq!((map.number(4), map.number(5), map.number(6)), (0o640, 1000, 100));
    // sint64 in zigzag form: 1,790,000,000 and -3 seconds.
    assert_eq!((map.number(7), map.number(8)), (3_580_000_000, 5));
    assert_eq!((full[7].number(7), full[7].number(8)), (5, 999_999_999));
    assert_eq!(full[7].bytes(9), b"etc/nowhere\xff");
    assert_eq!(full[4].number(10), 9);
    let xattr = Message::parse(&map.all(11)[1]);
    assert_eq!((xattr.bytes(1), xattr.bytes(2)), (b"user.b".to_vec(), vec![0, 255]));
    assert_eq!(map.number(12), 161);

    let delta_file = open("delta.manifest");
    let delta = manifest(&delta_file, &keys);
    assert_eq!(delta[0].bytes(3), delta_file.base);
    assert_eq!((delta[0].number(11), delta[0].number(12)), (2, 1));
    assert_eq!(delta[1].bytes(2), b"added");
    assert_eq!(content(&delta[1], &delta[0], &config, &keys), b"x");
    assert_eq!((delta[3].number(1), delta[3].bytes(2)), (0, b"keys/store".to_vec()));
    let states: Vec<_> = delta[0]
        .all(7)
        .iter()
        .map(|proof| Message::parse(proof))
        .map(|proof| (proof.number(2), String::from_utf8(proof.bytes(3)).unwrap()))
        .collect();
    assert_eq!(states, [(2, "not looked at".to_owned()), (3, "truncated".to_owned())]);
}
