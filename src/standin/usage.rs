//! Token counts: a quarter of the input's bytes, half of it cached; one token per word.

use serde_json::{Value, json};

use super::answer::Body;
use super::output;

/// What one response is charged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) input: u64,
    pub(crate) cached: u64,
    pub(crate) output: u64,
    pub(crate) reasoning: u64,
}

impl Usage {
    /// Counts an expanded request body and its answer.
    pub(crate) fn of(request: &Value, thought: Option<&str>, body: &Body) -> Self {
        let instructions = request["instructions"].as_str().map_or(0, str::len);
        let input = (json_len(&request["input"]) + instructions) as u64 / 4;
        let reasoning = thought.map_or(0, words);
        let said = match body {
            Body::Text { text, .. } | Body::Refusal(text) | Body::Compaction { summary: text, .. } => {
                words(text)
            }
            Body::Search(query) => words(query) + words(&output::found(query)),
            Body::Calls(calls) => calls.iter().map(|call| words(&call.name) + words(&call.arguments)).sum(),
        };
        Self { input, cached: input / 2, output: reasoning + said, reasoning }
    }

    /// The official object.
    pub(crate) fn to_json(self) -> Value {
        json!({
            "input_tokens": self.input,
            "input_tokens_details": {"cached_tokens": self.cached, "cache_write_tokens": 0},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.input + self.output,
        })
    }
}

fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

/// Bytes of `value` as compact JSON.
fn json_len(value: &Value) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    if value.is_null() {
        return 0;
    }
    let mut counter = Counter(0);
    // Counting cannot fail.
    let _ = serde_json::to_writer(&mut counter, value);
    counter.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_bytes_half_cached_and_a_token_per_word() {
        let request = json!({"instructions": "12345", "input": [{"role": "user", "content": "hello"}]});
        // 35 bytes of JSON and 5 of instructions.
        let usage = Usage::of(&request, Some("think a bit"), &Body::text("two words"));
        assert_eq!(usage, Usage { input: 10, cached: 5, output: 5, reasoning: 3 });
        assert_eq!(usage.to_json()["total_tokens"], 15);
    }
}
