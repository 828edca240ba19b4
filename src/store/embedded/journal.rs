//! What was put, used and deleted since the database was last written out, beside it. A frame is in the kernel's hands
//! before its change is acknowledged, so a killed process loses none; the file is emptied once the database has
//! all of it. There are two, taken in turn: one takes changes while the other's are being written out.
//!
//! A frame: length, checksum, bytes. A torn or damaged one ends the journal: nothing behind it was ever
//! acknowledged as durable against a loss of power. The first one says which turn it is.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Length and checksum.
const HEAD: usize = 4 + 8;

/// Of the first frame; one of a change begins otherwise.
const TURN: u8 = 0;

/// The open journal; its writer is the only one.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    length: u64,
    /// Counts up from journal to journal: the lower one's changes came first. 0 is not known.
    turn: u64,
}

impl Journal {
    /// Opens the journal at `path` and reads the frames that are whole.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Vec<Vec<u8>>)> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (mut frames, whole) = frames(&bytes);
        if whole < bytes.len() {
            tracing::warn!(
                path = %path.display(),
                bytes = bytes.len() - whole,
                "the end of the store's journal is damaged; what it held is lost"
            );
        }
        // Earlier versions had one journal, and no word of its turn.
        let turn = frames.first().and_then(|frame| turn(frame));
        if turn.is_some() {
            frames.remove(0);
        }
        let mut journal = Self { file, length: 0, turn: turn.unwrap_or_default() };
        journal.cut(whole as u64)?;
        Ok((journal, frames))
    }

    /// Its place among others, from 1 on.
    pub(super) fn turn(&self) -> u64 {
        self.turn
    }

    /// Sets the turn of one that is empty.
    pub(super) fn take_turn(&mut self, turn: u64) {
        self.turn = turn;
    }

    /// Whether it is known to come no later than `turn`.
    pub(super) fn is_before(&self, turn: u64) -> bool {
        (1..=turn).contains(&self.turn)
    }

    /// Bytes since it was last emptied.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Writes frames, all of them or none.
    pub(super) fn append<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut bytes = Vec::new();
        if self.length == 0 {
            put_frame(&mut bytes, &[&[TURN], self.turn.to_le_bytes().as_slice()].concat())?;
        }
        for frame in frames {
            put_frame(&mut bytes, frame)?;
        }
        if let Err(error) = self.file.write_all(&bytes) {
            // A part of a frame would hide all that follow it.
            self.cut(self.length)?;
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// The database has it all.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.cut(0)
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.seek(SeekFrom::Start(length))?;
        self.length = length;
        Ok(())
    }
}

fn put_frame(bytes: &mut Vec<u8>, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    bytes.extend(length.to_le_bytes());
    bytes.extend(checksum(frame));
    bytes.extend(frame);
    Ok(())
}

fn turn(frame: &[u8]) -> Option<u64> {
    let (&TURN, turn) = frame.split_first()? else { return None };
    Some(u64::from_le_bytes(turn.try_into().ok()?))
}

/// The frames that are whole, and how many bytes they take.
fn frames(bytes: &[u8]) -> (Vec<Vec<u8>>, usize) {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while let Some((frame, behind)) = first_frame(rest) {
        frames.push(frame.to_vec());
        rest = behind;
    }
    (frames, bytes.len() - rest.len())
}

fn first_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let (length, sum) = head.split_first_chunk()?;
    let (frame, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    (sum == checksum(frame)).then_some((frame, rest))
}

fn checksum(frame: &[u8]) -> [u8; 8] {
    let digest: [u8; 32] = Sha256::digest(frame).into();
    let mut sum = [0; 8];
    sum.copy_from_slice(&digest[..8]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(path: &Path) -> (Journal, Vec<String>) {
        let (journal, frames) = Journal::open(path).unwrap();
        (journal, frames.into_iter().map(|frame| String::from_utf8(frame).unwrap()).collect())
    }

    fn append(journal: &mut Journal, frames: &[&str]) {
        journal.append(frames.iter().map(|frame| frame.as_bytes())).unwrap();
    }

    #[test]
    fn what_was_appended_is_there_again_until_it_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut first, frames) = journal(&path);
        assert!(frames.is_empty());
        append(&mut first, &["one", "two"]);
        append(&mut first, &["three"]);
        drop(first);
        let (mut second, frames) = journal(&path);
        assert_eq!(frames, ["one", "two", "three"]);
        append(&mut second, &["four"]);
        assert_eq!(journal(&path).1, ["one", "two", "three", "four"]);
        second.clear().unwrap();
        append(&mut second, &["five"]);
        assert_eq!(journal(&path).1, ["five"]);
    }

    #[test]
    fn the_order_of_two_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join("one"), dir.path().join("two")];
        let (mut one, mut two) = (journal(&paths[0]).0, journal(&paths[1]).0);
        for text in ["a", "b", "c"] {
            two.take_turn(one.turn() + 1);
            append(&mut two, &[text]);
            std::mem::swap(&mut one, &mut two);
            two.clear().unwrap();
        }
        assert_eq!(
            paths.map(|path| (journal(&path).0.turn(), journal(&path).1)),
            [(0, vec![]), (3, vec!["c".to_owned()])]
        );
    }

    #[test]
    fn a_torn_or_damaged_end_costs_what_is_behind_it_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        append(&mut journal(&path).0, &["one", "two", "three"]);
        let whole = std::fs::read(&path).unwrap();
        let first = HEAD + 9;
        let ends = [first + HEAD + 3, first + 2 * (HEAD + 3), whole.len()];
        for at in 0..whole.len() {
            let before = ends.iter().filter(|end| **end <= at).count();
            std::fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(journal(&path).1, ["one", "two", "three"][..before], "cut at {at}");
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            std::fs::write(&path, &damaged).unwrap();
            let (mut open, frames) = journal(&path);
            assert_eq!(frames, ["one", "two", "three"][..before], "damaged at {at}");
            append(&mut open, &["four"]);
            assert_eq!(journal(&path).1.last().map(String::as_str), Some("four"), "damaged at {at}");
        }
    }
}
