//! Usage of a completion: one prompt, however many choices.

use schemars::JsonSchema;
use serde::Serialize;

use crate::model::Usage;

/// The official shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize)]
pub(super) struct CompletionUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize)]
struct PromptDetails {
    cached_tokens: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize)]
struct CompletionDetails {
    reasoning_tokens: u64,
}

/// Adds up the choices' figures as they come.
#[derive(Debug, Default)]
pub(super) struct Totals {
    sum: Option<CompletionUsage>,
    /// A choice without figures makes the sum a guess: none is given.
    unknown: bool,
}

impl Totals {
    /// The prompt is the same for all choices and counted once; what was completed is counted together.
    pub(super) fn add(&mut self, usage: Option<Usage>) {
        let Some(usage) = usage else {
            self.unknown = true;
            return;
        };
        let sum = self.sum.get_or_insert(CompletionUsage {
            prompt_tokens: usage.input_tokens,
            completion_tokens: 0,
            total_tokens: usage.input_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens: usage.cached_input_tokens },
            completion_tokens_details: CompletionDetails { reasoning_tokens: 0 },
        });
        sum.completion_tokens += usage.output_tokens;
        sum.total_tokens += usage.output_tokens;
        sum.completion_tokens_details.reasoning_tokens += usage.reasoning_tokens;
    }

    pub(super) fn get(&self) -> Option<CompletionUsage> {
        if self.unknown { None } else { self.sum }
    }

    /// Of several prompts together.
    pub(super) fn sum(all: &[Self]) -> Option<CompletionUsage> {
        let add = |mut sum: CompletionUsage, one: CompletionUsage| {
            sum.prompt_tokens += one.prompt_tokens;
            sum.completion_tokens += one.completion_tokens;
            sum.total_tokens += one.total_tokens;
            sum.prompt_tokens_details.cached_tokens += one.prompt_tokens_details.cached_tokens;
            sum.completion_tokens_details.reasoning_tokens += one.completion_tokens_details.reasoning_tokens;
            sum
        };
        let all: Option<Vec<CompletionUsage>> = all.iter().map(Self::get).collect();
        all?.into_iter().reduce(add)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn usage(input_tokens: u64, output_tokens: u64) -> Usage {
        Usage {
            input_tokens,
            cached_input_tokens: 4,
            cache_write_input_tokens: 0,
            output_tokens,
            reasoning_tokens: 1,
            total_tokens: input_tokens + output_tokens,
        }
    }

    #[test]
    fn the_prompt_counts_once_and_completions_together() {
        let mut totals = Totals::default();
        totals.add(Some(usage(10, 3)));
        totals.add(Some(usage(10, 5)));
        let expected = json!({
            "prompt_tokens": 10,
            "completion_tokens": 8,
            "total_tokens": 18,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        });
        assert_eq!(serde_json::to_value(totals.get()).unwrap(), expected);
    }

    #[test]
    fn missing_figures_are_not_guessed() {
        let mut totals = Totals::default();
        totals.add(Some(usage(10, 3)));
        totals.add(None);
        assert_eq!(totals.get(), None);
    }
}
