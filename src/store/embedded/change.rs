//! What the writer is asked to do, and how that stands in the journal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::StorageError;

use super::recent::Pages;
use crate::model::ResponseId;
use crate::store::Lookup;
use crate::store::ledger::{Entry, Ledger, Limits, Totals};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Put {
        id: ResponseId,
        entry: Entry,
        content: Arc<[u8]>,
    },
    Delete {
        id: ResponseId,
    },
    Touch {
        id: ResponseId,
        expires_at: u64,
    },
    /// A part of it.
    Sweep {
        now: u64,
    },
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// What was there; of a record that is put, its predecessor.
    Found(Lookup<()>),
    /// Records looked at, and whether there may be more.
    Swept(usize, bool),
    /// Nothing: its chain takes more than half of these bytes, which all may take.
    TooLarge(u64),
}

/// How long a part of a sweep goes on: what a request may have to wait for.
const SWEEP_FOR: Duration = Duration::from_millis(1);

const PUT: u8 = 1;
const DELETE: u8 = 2;
const AT: u8 = 3;
const TOUCH: u8 = 4;

impl Change {
    /// Makes the change.
    pub(super) fn make(
        &self,
        pages: &mut Pages<'_>,
        totals: &mut Totals,
        limits: Limits,
        now: u64,
    ) -> Result<Done, StorageError> {
        let mut ledger = Ledger { books: pages, totals, now };
        Ok(match self {
            Self::Put { id, entry, content } => {
                if !ledger.takes(entry, limits)? {
                    return Ok(Done::TooLarge(limits.bytes));
                }
                ledger.books.put_content(id, Arc::clone(content));
                Done::Found(ledger.put(id, entry.clone(), limits)?)
            }
            Self::Delete { id } => Done::Found(ledger.delete(id)?),
            Self::Touch { id, expires_at } => Done::Found(ledger.touch(id, *expires_at)?),
            Self::Sweep { now } => {
                ledger.now = *now;
                let (began, mut seen) = (Instant::now(), 0);
                while began.elapsed() < SWEEP_FOR {
                    if ledger.sweep(1)? == 0 {
                        return Ok(Done::Swept(seen, false));
                    }
                    seen += 1;
                }
                Done::Swept(seen, true)
            }
        })
    }

    /// Its frame in the journal; `None` for what need not outlive the process: a sweep is done again.
    pub(super) fn to_frame(&self) -> Option<Vec<u8>> {
        let mut frame = Vec::new();
        match self {
            Self::Put { id, entry, content } => {
                frame.push(PUT);
                put_text(&mut frame, Some(id))?;
                put_text(&mut frame, entry.previous.as_ref())?;
                frame.extend(entry.expires_at.to_le_bytes());
                frame.extend(entry.last_used_at.to_le_bytes());
                frame.extend(&**content);
            }
            Self::Delete { id } => {
                frame.push(DELETE);
                put_text(&mut frame, Some(id))?;
            }
            Self::Touch { id, expires_at } => {
                frame.push(TOUCH);
                put_text(&mut frame, Some(id))?;
                frame.extend(expires_at.to_le_bytes());
            }
            Self::Sweep { .. } => return None,
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
                Some(Self::Put { id: id?, entry, content: content.into() })
            }
            DELETE => Some(Self::Delete { id: id? }),
            TOUCH => Some(Self::Touch { id: id?, expires_at: u64::from_le_bytes(rest.try_into().ok()?) }),
            _ => None,
        }
    }
}

/// The frame that says when the changes of the frames after it were made: what had expired by then had, and nothing
/// else, whenever they are made again.
pub(super) fn at(now: u64) -> Vec<u8> {
    [&[AT], now.to_le_bytes().as_slice()].concat()
}

/// The inverse of [`at`].
pub(super) fn from_at(frame: &[u8]) -> Option<u64> {
    let (&AT, now) = frame.split_first()? else { return None };
    Some(u64::from_le_bytes(now.try_into().ok()?))
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
        fn changes_come_back_as_they_were(
            id in "[a-z_]{0,60}",
            previous in proptest::option::of("[a-z_]{0,60}"),
            times in any::<(u64, u64)>(),
            content: Vec<u8>,
        ) {
            let content: Arc<[u8]> = content.into();
            let id = ResponseId::new(id);
            let entry = Entry {
                previous: previous.map(ResponseId::new),
                expires_at: times.0,
                last_used_at: times.1,
                length: content.len() as u64,
            };
            let touch = Change::Touch { id: id.clone(), expires_at: times.0 };
            prop_assert_eq!(from_at(&at(times.1)), Some(times.1));
            for change in [Change::Put { id: id.clone(), entry, content }, touch, Change::Delete { id }] {
                let frame = change.to_frame().unwrap();
                prop_assert_eq!(from_at(&frame), None);
                prop_assert_eq!(Change::from_frame(&frame), Some(change));
            }
        }

        #[test]
        fn any_frame_is_a_change_or_none(frame: Vec<u8>) {
            let _ = Change::from_frame(&frame);
            let _ = from_at(&frame);
        }
    }
}
