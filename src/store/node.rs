//! A record's place among the others, without its content: when it goes, and what needs it.

use std::time::{Duration, SystemTime};

use super::Lookup;
use crate::model::ResponseId;

/// Bytes a record takes beside its content: its id, its times and its places in the orders.
pub(super) const OVERHEAD: u64 = 256;

/// What is known of a record without reading its content. Times are microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// The record it continues.
    pub(super) previous: Option<ResponseId>,
    /// Whether `previous` was there, and counts this record among its children.
    pub(super) linked: bool,
    /// Records that continue this one and are kept.
    pub(super) children: u32,
    /// Deleted: nobody is given it, and it is kept for its children, or to be remembered as deleted.
    pub(super) deleted: bool,
    pub(super) expires_at: u64,
    pub(super) last_used_at: u64,
    /// Bytes it counts for, [`OVERHEAD`] included.
    pub(super) size: u64,
}

impl Node {
    /// What a caller is told of the record.
    pub(super) fn status(&self, now: u64) -> Lookup<()> {
        match (self.deleted, now < self.expires_at) {
            (false, true) => Lookup::Found(()),
            (false, false) => Lookup::Expired,
            (true, true) => Lookup::Deleted,
            (true, false) => Lookup::Unknown,
        }
    }

    /// Whether it is kept for its children's sake alone.
    pub(super) fn is_dead(&self, now: u64) -> bool {
        self.deleted || self.expires_at <= now
    }

    /// Flags, times, numbers, then the previous id.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let flags =
            u8::from(self.linked) | u8::from(self.deleted) << 1 | u8::from(self.previous.is_some()) << 2;
        let mut bytes = vec![flags];
        bytes.extend(self.expires_at.to_le_bytes());
        bytes.extend(self.last_used_at.to_le_bytes());
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.children.to_le_bytes());
        bytes.extend(self.previous.iter().flat_map(|id| id.as_str().as_bytes()));
        bytes
    }

    /// The inverse of [`Node::to_bytes`].
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (flags, rest) = bytes.split_first()?;
        let (expires_at, rest) = rest.split_first_chunk()?;
        let (last_used_at, rest) = rest.split_first_chunk()?;
        let (size, rest) = rest.split_first_chunk()?;
        let (children, previous) = rest.split_first_chunk()?;
        let previous = std::str::from_utf8(previous).ok()?;
        Some(Self {
            previous: (flags & 4 != 0).then(|| ResponseId::new(previous)),
            linked: flags & 1 != 0,
            deleted: flags & 2 != 0,
            expires_at: u64::from_le_bytes(*expires_at),
            last_used_at: u64::from_le_bytes(*last_used_at),
            size: u64::from_le_bytes(*size),
            children: u32::from_le_bytes(*children),
        })
    }
}

/// Microseconds since 1970; an earlier time is 1970.
pub(super) fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The inverse of [`micros`].
pub(super) fn time(micros: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros)).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_node_comes_back_as_it_was(
            previous in proptest::option::of("[a-z_]{0,40}"),
            flags in any::<(bool, bool)>(),
            children: u32,
            times in any::<(u64, u64, u64)>(),
        ) {
            let node = Node {
                previous: previous.map(ResponseId::new),
                linked: flags.0,
                children,
                deleted: flags.1,
                expires_at: times.0,
                last_used_at: times.1,
                size: times.2,
            };
            prop_assert_eq!(Node::from_bytes(&node.to_bytes()), Some(node));
        }

        #[test]
        fn any_bytes_are_a_node_or_none(bytes: Vec<u8>) {
            let _ = Node::from_bytes(&bytes);
        }
    }
}
