//! At most half of something for each key: the rest is there for whoever comes next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::model::KeyId;

/// The shares of all keys.
#[derive(Debug)]
pub(crate) struct Shares {
    /// Of one key.
    share: usize,
    /// Of the keys that have taken something, and of some that have given all of it back. Locked for a moment only.
    of_keys: Mutex<HashMap<KeyId, Arc<Semaphore>>>,
}

impl Shares {
    /// Half of `all`.
    pub(crate) fn of(all: usize) -> Self {
        Self { share: all.div_ceil(2).min(Semaphore::MAX_PERMITS), of_keys: Mutex::default() }
    }

    /// How much one key may have.
    pub(crate) fn share(&self) -> usize {
        self.share
    }

    /// The key's share; `None` where there are no keys, and so nobody to keep the rest for.
    pub(crate) fn of_key(&self, key: &KeyId) -> Option<Arc<Semaphore>> {
        if *key == KeyId::anonymous() {
            return None;
        }
        let mut of_keys = self.of_keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = of_keys.get(key) {
            return Some(Arc::clone(share));
        }
        // Whoever has or waits for something of a share holds it.
        of_keys.retain(|_, share| Arc::strong_count(share) > 1);
        let share = Arc::new(Semaphore::new(self.share));
        of_keys.insert(key.clone(), Arc::clone(&share));
        Some(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_share_and_what_is_taken_of_it_is_remembered() {
        let shares = Shares::of(5);
        let share = |key: &str| shares.of_key(&KeyId::new(key));
        let taken = share("a").unwrap().try_acquire_many_owned(3).unwrap();
        assert!(share("b").unwrap().try_acquire_many_owned(3).is_ok());
        for other in 0..100 {
            assert!(share(&other.to_string()).is_some());
        }
        assert!(shares.of_keys.lock().unwrap().len() <= 2, "what nobody holds is forgotten");
        assert!(share("a").unwrap().try_acquire_owned().is_err());
        drop(taken);
        assert!(share("a").unwrap().try_acquire_owned().is_ok());
        assert!(shares.of_key(&KeyId::anonymous()).is_none());
    }
}
