//! Whatever lies in a store is a record or is said to be unreadable.

use super::codec::Codec;
use super::node::Node;
use crate::config::EncryptionKey;
use crate::fuzzing;
use crate::model::ResponseId;

fn node() -> Node {
    Node {
        previous: None,
        linked: false,
        children: 0,
        deleted: false,
        expires_at: 1,
        last_used_at: 1,
        size: 0,
    }
}

#[test]
fn fuzz_store_codec() {
    let id = ResponseId::new("resp_1");
    let codecs = [Codec::default(), Codec::new(Some(&EncryptionKey::new([7; 32])))];
    let sealed = |bytes: &[u8]| {
        let record = codecs[0].decode(&id, &node(), bytes).expect("a seed is a record");
        codecs[1].encode(&record).expect("it can be written")
    };
    let seed =
        [b"\x01", include_str!("../../tests/fuzz/store_record/record.json").trim().as_bytes()].concat();
    fuzzing::bytes("store_codec", &[sealed(&seed), seed], |bytes| {
        let _ = Node::from_bytes(bytes);
        for codec in &codecs {
            let _ = codec.items(&id, bytes);
            let _ = codec.is_right(bytes);
            let Ok(record) = codec.decode(&id, &node(), bytes) else { continue };
            let written = codec.encode(&record).expect("it can be written");
            assert_eq!(codec.decode(&id, &node(), &written).expect("what was written"), record);
        }
    });
}

/// What gets past the parser.
#[test]
fn fuzz_store_record() {
    let id = ResponseId::new("resp_1");
    let codec = Codec::default();
    fuzzing::json("store_record", &[], |record| {
        let bytes = [b"\x01", record.to_string().as_bytes()].concat();
        let Ok(read) = codec.decode(&id, &node(), &bytes) else { return };
        let written = codec.encode(&read).expect("it can be written");
        assert_eq!(codec.decode(&id, &node(), &written).expect("what was written"), read);
    });
}
