//! Keys read anew while requests run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{error, info};

use super::{Keys, Table};
use crate::config::AuthConfig;

/// What became of the reloads.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    done: AtomicU64,
    /// Why the keys are older than what was asked for; `None` while they are not.
    refused: Mutex<Option<String>>,
}

/// For `/v1/health`.
#[derive(Debug)]
pub(crate) struct KeyHealth {
    /// Keys there are; `None` where none is wanted.
    pub(crate) count: Option<usize>,
    pub(crate) reloads: u64,
    /// Why the last reload changed nothing.
    pub(crate) refused: Option<String>,
    /// Requests refused because of a key's requests a minute, of the keys there are.
    pub(crate) refused_requests: u64,
    /// The same because of its tokens.
    pub(crate) refused_tokens: u64,
}

impl Keys {
    /// Takes over what was read. Requests that run go on under the key they came with; a key whose rates are the
    /// same has used of them what it has. What could not be read, and what would open a closed `/v1`, changes
    /// nothing.
    pub(crate) fn reload(&self, read: Result<AuthConfig, String>) {
        let before = self.table();
        let opens = |auth: &AuthConfig| auth.is_open() && before.everyone.is_none();
        let read = match read {
            Ok(auth) if opens(&auth) => {
                Err("there is no key any more; a restart would let everyone call".into())
            }
            read => read,
        };
        let refused = match read {
            Ok(auth) => {
                let table = Table::new(&auth, Some(&before));
                info!(keys = table.keys.len(), open = table.everyone.is_some(), "keys reloaded");
                *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
                self.reloads.done.fetch_add(1, Ordering::Relaxed);
                None
            }
            Err(reason) => {
                error!(%reason, "the keys stay as they were");
                Some(reason)
            }
        };
        *self.reloads.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    pub(crate) fn health(&self) -> KeyHealth {
        let table = self.table();
        let refused = table.keys.iter().map(|key| key.rates.refused());
        let (refused_requests, refused_tokens) =
            refused.fold((0, 0), |sum, each| (sum.0 + each.0, sum.1 + each.1));
        KeyHealth {
            count: table.everyone.is_none().then_some(table.keys.len()),
            reloads: self.reloads.done.load(Ordering::Relaxed),
            refused: self.reloads.refused.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            refused_requests,
            refused_tokens,
        }
    }
}
