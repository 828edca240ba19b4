//! Identifiers, one type each, so that a thread id is never passed where a response id is meant.

use std::fmt;
use std::sync::Arc;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps an id as it came.
            pub fn new(id: impl Into<Arc<str>>) -> Self {
                Self(id.into())
            }

            /// The id as it stands on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// A response of ours (`resp_…`): what `previous_response_id` names.
    ResponseId
}
id! {
    /// One HTTP request, as in `x-request-id`.
    RequestId
}
id! {
    /// A conversation of the caller's, as the caller names it.
    SessionId
}
id! {
    /// A native thread of the app-server.
    ThreadId
}
id! {
    /// A native turn of the app-server.
    TurnId
}
id! {
    /// The name of the API key a request came with; never the key itself.
    KeyId
}

id! {
    /// The class of a task: whose defaults a call takes.
    TaskClass
}

impl ResponseId {
    /// A fresh id. Random, so that it cannot be guessed by another key's holder.
    pub fn generate() -> Self {
        Self::new(format!("resp_{}", uuid::Uuid::new_v4().simple()))
    }
}

impl RequestId {
    /// A fresh id for a request that brought none.
    pub fn generate() -> Self {
        Self::new(format!("req_{}", uuid::Uuid::new_v4().simple()))
    }
}

impl SessionId {
    /// A fresh id for a request of no known conversation.
    pub fn generate() -> Self {
        Self::new(format!("sess_{}", uuid::Uuid::new_v4().simple()))
    }
}

impl KeyId {
    /// The owner of requests where no key is configured.
    pub fn anonymous() -> Self {
        Self::new("anonymous")
    }
}
