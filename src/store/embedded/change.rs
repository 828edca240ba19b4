//! What the writer is asked to do, and how that stands in the journal.

use redb::StorageError;

use super::tables::Tables;
use crate::model::ResponseId;
use crate::store::Lookup;
use crate::store::ledger::{Entry, Ledger, Limits, Totals};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Put {
        id: ResponseId,
        entry: Entry,
        content: Vec<u8>,
    },
    Delete {
        id: ResponseId,
    },
    Touch {
        id: ResponseId,
        expires_at: u64,
    },
    /// One batch of it.
    Sweep {
        now: u64,
        most: usize,
    },
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// What was there; of a record that is put, its predecessor.
    Found(Lookup<()>),
    /// Records looked at.
    Swept(usize),
}

const PUT: u8 = 1;
const DELETE: u8 = 2;

impl Change {
    /// Makes the change.
    pub(super) fn make(
        &self,
        tables: &mut Tables<'_>,
        totals: &mut Totals,
        limits: Limits,
        now: u64,
    ) -> Result<Done, StorageError> {
        let mut ledger = Ledger { books: tables, totals, now };
        Ok(match self {
            Self::Put { id, entry, content } => {
                ledger.books.put_content(id, content)?;
                Done::Found(ledger.put(id, entry.clone(), limits)?)
            }
            Self::Delete { id } => Done::Found(ledger.delete(id)?),
            Self::Touch { id, expires_at } => Done::Found(ledger.touch(id, *expires_at)?),
            Self::Sweep { now, most } => {
                ledger.now = *now;
                Done::Swept(ledger.sweep(*most)?)
            }
        })
    }

    /// Most records that it changes, predecessors left aside.
    pub(super) fn records(&self) -> usize {
        match self {
            Self::Put { .. } | Self::Delete { .. } | Self::Touch { .. } => 1,
            Self::Sweep { most, .. } => *most,
        }
    }

    /// Its frame in the journal; `None` for what need not outlive the process: a touch costs a record some of
    /// its time, and a sweep is done again.
    pub(super) fn to_frame(&self) -> Option<Vec<u8>> {
        let mut frame = Vec::new();
        match self {
            Self::Put { id, entry, content } => {
                frame.push(PUT);
                put_text(&mut frame, Some(id))?;
                put_text(&mut frame, entry.previous.as_ref())?;
                frame.extend(entry.expires_at.to_le_bytes());
                frame.extend(entry.last_used_at.to_le_bytes());
                frame.extend(content);
            }
            Self::Delete { id } => {
                frame.push(DELETE);
                put_text(&mut frame, Some(id))?;
            }
            Self::Touch { .. } | Self::Sweep { .. } => return None,
        }
        Some(frame)
    }

    /// The inverse of [`Change::to_frame`].
    pub(super) fn from_frame(frame: &[u8]) -> Option<Self> {
        let (kind, rest) = frame.split_first()?;
        let (id, rest) = take_text(rest)?;
        match *kind {
            PUT => {
                let (previous, rest) = take_text(rest)?;
                let (expires_at, rest) = rest.split_first_chunk()?;
                let (last_used_at, content) = rest.split_first_chunk()?;
                let entry = Entry {
                    previous,
                    expires_at: u64::from_le_bytes(*expires_at),
                    last_used_at: u64::from_le_bytes(*last_used_at),
                    length: content.len() as u64,
                };
                Some(Self::Put { id: id?, entry, content: content.to_vec() })
            }
            DELETE => Some(Self::Delete { id: id? }),
            _ => None,
        }
    }
}

/// Length and text; no text is a length that no text has.
fn put_text(frame: &mut Vec<u8>, text: Option<&ResponseId>) -> Option<()> {
    let text = text.map(ResponseId::as_str);
    let length =
        text.map_or(Some(u16::MAX), |text| u16::try_from(text.len()).ok().filter(|n| *n < u16::MAX))?;
    frame.extend(length.to_le_bytes());
    frame.extend(text.unwrap_or_default().as_bytes());
    Some(())
}

fn take_text(frame: &[u8]) -> Option<(Option<ResponseId>, &[u8])> {
    let (length, rest) = frame.split_first_chunk()?;
    match u16::from_le_bytes(*length) {
        u16::MAX => Some((None, rest)),
        length => {
            let (text, rest) = rest.split_at_checked(length.into())?;
            Some((Some(ResponseId::new(std::str::from_utf8(text).ok()?)), rest))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn puts_and_deletes_come_back_as_they_were(
            id in "[a-z_]{0,60}",
            previous in proptest::option::of("[a-z_]{0,60}"),
            times in any::<(u64, u64)>(),
            content: Vec<u8>,
        ) {
            let id = ResponseId::new(id);
            let entry = Entry {
                previous: previous.map(ResponseId::new),
                expires_at: times.0,
                last_used_at: times.1,
                length: content.len() as u64,
            };
            for change in [Change::Put { id: id.clone(), entry, content }, Change::Delete { id }] {
                let frame = change.to_frame().unwrap();
                prop_assert_eq!(Change::from_frame(&frame), Some(change));
            }
        }

        #[test]
        fn any_frame_is_a_change_or_none(frame: Vec<u8>) {
            let _ = Change::from_frame(&frame);
        }
    }
}
