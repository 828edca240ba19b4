//! Which conversation of the caller's a request belongs to, and how that is known.

use super::SessionId;

/// A request's session: one id, from the first source that has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionIdentity {
    id: SessionId,
    source: SessionSource,
    /// Whether the conversation's other requests have it too, and no other conversation has.
    scopes: bool,
}

/// Where a session's id comes from, in the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionSource {
    /// The request header of this name.
    Header(&'static str),
    /// The body's field of this path.
    Body(&'static str),
    /// The response that the request continues.
    Previous,
    /// A digest of how the conversation begins.
    Derived,
    /// Made for this request.
    Fresh,
}

impl SessionIdentity {
    /// What the caller named.
    pub fn named(id: SessionId, source: SessionSource) -> Self {
        Self { id, source, scopes: true }
    }

    /// What the caller named, and is likely to name differently on its next request.
    pub fn of_one_request(id: SessionId, source: SessionSource) -> Self {
        Self { id, source, scopes: false }
    }

    /// A digest of how the conversation begins. No scope: it says less than the items do, which are compared
    /// anyway, and says it of the form they came in.
    pub fn derived(id: SessionId) -> Self {
        Self { id, source: SessionSource::Derived, scopes: false }
    }

    /// One that no other request has.
    pub fn fresh() -> Self {
        Self { id: SessionId::generate(), source: SessionSource::Fresh, scopes: false }
    }

    /// The session of a request that continues this one's response and names none. A scope where the caller has
    /// named it (`by_caller`) in an earlier request: that name it sends again.
    pub fn inherited(id: SessionId, by_caller: bool) -> Self {
        Self { id, source: SessionSource::Previous, scopes: by_caller }
    }

    /// Its id.
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// Where it comes from.
    pub fn source(&self) -> SessionSource {
        self.source
    }

    /// Whether the caller named it.
    pub fn is_named(&self) -> bool {
        matches!(self.source, SessionSource::Header(_) | SessionSource::Body(_))
    }

    /// Whether the caller named it, in this request or in an earlier one.
    pub fn is_by_caller(&self) -> bool {
        self.is_named() || self.scopes
    }

    /// Within what a conversation's earlier threads are looked for: what the caller named, or its response does.
    /// `None` where the id says nothing about other requests.
    pub fn scope(&self) -> Option<&SessionId> {
        self.scopes.then_some(&self.id)
    }
}

impl SessionSource {
    /// The kind of source, for traces and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Header(_) => "header",
            Self::Body(_) => "body",
            Self::Previous => "previous",
            Self::Derived => "derived",
            Self::Fresh => "fresh",
        }
    }

    /// The header's name or the field's path.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Header(name) | Self::Body(name) => Some(name),
            Self::Previous | Self::Derived | Self::Fresh => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_that_other_requests_can_have_is_a_scope() {
        let id = SessionId::new("s");
        let header = SessionSource::Header("session-id");
        let named = SessionIdentity::named(id.clone(), header);
        assert_eq!((named.scope(), named.is_named()), (Some(&id), true));
        let of_one = SessionIdentity::of_one_request(id.clone(), header);
        assert_eq!((of_one.scope(), of_one.is_named()), (None, true));
        // Its continuation has it from then on.
        let inherited = |from: &SessionIdentity| SessionIdentity::inherited(id.clone(), from.is_by_caller());
        let further = inherited(&of_one);
        assert_eq!((further.scope(), further.is_named()), (Some(&id), false));
        assert_eq!(inherited(&further).scope(), Some(&id));
        assert_eq!(SessionIdentity::fresh().scope(), None);
        let derived = SessionIdentity::derived(id.clone());
        assert_eq!((derived.scope(), inherited(&derived).scope()), (None, None));
        assert_eq!(inherited(&inherited(&derived)).scope(), None);
        assert_ne!(SessionIdentity::fresh(), SessionIdentity::fresh());
    }
}
