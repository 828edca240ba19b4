//! Where a turn ran.

/// How a request found its native thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// A thread of its own; there was nothing to continue.
    Fresh,
    /// The chain's own thread, still loaded.
    Live,
    /// The turn that waited for this request's tool outputs.
    Held,
    /// A thread of its own that was given the chain's items.
    Rebuilt,
    /// A fork of a thread that many calls' common beginning was put into.
    Template,
}

impl Route {
    /// The word for it in records, traces and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Live => "live",
            Self::Held => "held",
            Self::Rebuilt => "rebuilt",
            Self::Template => "template",
        }
    }
}
