//! What is kept: documents, their parts, and parts of lists of them.

use std::time::SystemTime;

use crate::model::KeyId;

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DocumentKind {
    /// A response that nobody waits for, until it is one of the response store's; or one that failed.
    Background,
    /// A conversation; its entries are its items.
    Conversation,
    /// A stored chat completion; its entries are its messages.
    Completion,
    /// An uploaded or written file.
    File,
    /// A batch of requests.
    Batch,
}

impl DocumentKind {
    /// Part of the written form.
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Background => b'g',
            Self::Conversation => b'c',
            Self::Completion => b'm',
            Self::File => b'f',
            Self::Batch => b'b',
        }
    }

    pub(super) fn of(byte: u8) -> Option<Self> {
        [Self::Background, Self::Conversation, Self::Completion, Self::File, Self::Batch]
            .into_iter()
            .find(|kind| kind.byte() == byte)
    }
}

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Unique within its kind.
    pub id: String,
    /// Whose it is; whether a caller may see it is for the caller's side to say.
    pub owner: KeyId,
    /// When it goes, with its entries; `None` stays.
    pub expires_at: Option<SystemTime>,
    /// What it says.
    pub body: Vec<u8>,
}

/// A part of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Unique within its document.
    pub id: String,
    /// What it says.
    pub body: Vec<u8>,
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// The id that it follows.
    pub after: Option<&'a str>,
    /// Most that is given.
    pub limit: usize,
    /// The latest first.
    pub descending: bool,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// In order.
    pub found: Vec<T>,
    /// Whether more follows.
    pub has_more: bool,
}
