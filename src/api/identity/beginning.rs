//! A session's id out of how its conversation begins.

use std::collections::BTreeMap;
use std::io::{self, Write};

use sha2::{Digest, Sha256};

use crate::model::{Item, KeyId, SessionId};

/// How a conversation begins: what does not change while it grows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beginning<'a> {
    /// Two keys never share a session that neither of them has named.
    pub(crate) key: &'a KeyId,
    pub(crate) instructions: Option<&'a str>,
    /// All items; those up to the first that is no developer message count.
    pub(crate) items: &'a [Item],
}

/// What a frame of the digest holds. Each frame is its kind, its length and its bytes, so that no two beginnings
/// make one series of bytes.
#[derive(Clone, Copy)]
enum Frame {
    Key = 1,
    Instructions = 2,
    Item = 3,
}

impl Beginning<'_> {
    /// The id; `None` where nothing is said.
    pub(super) fn digest(&self) -> Option<SessionId> {
        let is_developer = |item: &Item| item.kind() == "message" && item.str("role") == Some("developer");
        let developers = self.items.iter().take_while(|item| is_developer(item)).count();
        let first = self.items.get(..=developers).unwrap_or(self.items);
        if first.is_empty() {
            return None;
        }
        let mut hash = Sha256::new();
        frame(&mut hash, Frame::Key, self.key.as_str().as_bytes());
        if let Some(instructions) = self.instructions {
            frame(&mut hash, Frame::Instructions, instructions.as_bytes());
        }
        for item in first {
            // Its own hash stands for it: its length is then known before it is written.
            let mut own = Sha256::new();
            let fields = item.fields().iter().filter(|(name, _)| !matches!(name.as_str(), "id" | "status"));
            serde_json::to_writer(Hashed(&mut own), &fields.collect::<BTreeMap<_, _>>()).ok()?;
            frame(&mut hash, Frame::Item, &own.finalize());
        }
        // The first 128 bits.
        Some(SessionId::new(format!("derived_{:.32x}", hash.finalize())))
    }
}

fn frame(hash: &mut Sha256, kind: Frame, bytes: &[u8]) {
    hash.update([kind as u8]);
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

struct Hashed<'a>(&'a mut Sha256);

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
