//! What this bridge has used since it started, by key and model.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::model::{Ended, KeyId, Usage};

/// Pairs of key and model that are counted apart; there are as many as are configured and in the catalogue. Past it
/// a model is counted as [`OTHER`].
const MAX_PAIRS: usize = 1024;
/// Models past the bound.
const OTHER: &str = "(other)";

/// Calls and tokens of one key and model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Turns that have ended, however.
    pub calls: u64,
    /// Those without an answer.
    pub failed: u64,
    /// Those whose client left.
    pub abandoned: u64,
    /// Tokens that went in.
    pub input_tokens: u64,
    /// Those of them that the backend had cached.
    pub cached_input_tokens: u64,
    /// Tokens that came out.
    pub output_tokens: u64,
    /// Those of them that were reasoning.
    pub reasoning_tokens: u64,
}

/// All of it. Owned by the engine.
#[derive(Debug)]
pub(super) struct Ledger {
    since: SystemTime,
    // A std mutex: held for a moment, never across an await.
    spent: Mutex<BTreeMap<(KeyId, String), Spent>>,
}

impl Ledger {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self { since: SystemTime::now(), spent: Mutex::default() }
    }

    /// One turn more.
    pub(super) fn add(&self, key: &KeyId, model: &str, ended: Ended, usage: Option<Usage>) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut place = (key.clone(), model.to_owned());
        if spent.len() >= MAX_PAIRS && !spent.contains_key(&place) {
            OTHER.clone_into(&mut place.1);
        }
        let spent = spent.entry(place).or_default();
        spent.calls += 1;
        spent.failed += u64::from(ended == Ended::Failed);
        spent.abandoned += u64::from(ended == Ended::Abandoned);
        let usage = usage.unwrap_or_default();
        spent.input_tokens += usage.input_tokens;
        spent.cached_input_tokens += usage.cached_input_tokens;
        spent.output_tokens += usage.output_tokens;
        spent.reasoning_tokens += usage.reasoning_tokens;
    }

    /// From when on it was counted.
    pub(super) fn since(&self) -> SystemTime {
        self.since
    }

    /// By key and model, in order.
    pub(super) fn all(&self) -> Vec<(KeyId, String, Spent)> {
        let spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.iter().map(|((key, model), spent)| (key.clone(), model.clone(), *spent)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_and_model_has_its_own_and_there_are_only_so_many() {
        let ledger = Ledger::new();
        let (one, other) = (KeyId::new("one"), KeyId::new("other"));
        let usage = Usage { input_tokens: 5, output_tokens: 2, ..Usage::default() };
        ledger.add(&one, "m", Ended::Answered, Some(usage));
        ledger.add(&one, "m", Ended::Failed, None);
        ledger.add(&other, "m", Ended::Abandoned, Some(usage));
        let all = ledger.all();
        assert_eq!(all.len(), 2);
        let expected = Spent { calls: 2, failed: 1, input_tokens: 5, output_tokens: 2, ..Spent::default() };
        assert_eq!((&all[0].0, &all[0].2), (&one, &expected));
        for n in 0..2 * MAX_PAIRS {
            ledger.add(&one, &n.to_string(), Ended::Answered, None);
        }
        assert!(ledger.all().len() <= MAX_PAIRS + 2);
    }
}
