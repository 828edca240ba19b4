//! Words and numbers of a text, to fill a schema with.

use serde_json::Value;

/// What a text can lend; begins again when all is lent.
pub(crate) struct Borrowed<'a> {
    words: Vec<&'a str>,
    next_word: usize,
    numbers: Vec<f64>,
    next_number: usize,
    lower: String,
}

impl<'a> Borrowed<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let all: Vec<&str> = text
            .split_whitespace()
            .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()))
            .filter(|word| !word.is_empty())
            .collect();
        let numbers =
            all.iter().filter_map(|word| word.parse().ok()).filter(|number: &f64| number.is_finite());
        Self {
            numbers: numbers.collect(),
            words: by_weight(&all),
            next_word: 0,
            next_number: 0,
            lower: text.to_lowercase(),
        }
    }

    pub(crate) fn word(&mut self) -> String {
        if self.words.is_empty() {
            return "word".to_owned();
        }
        let word = self.words[self.next_word % self.words.len()];
        self.next_word += 1;
        word.to_owned()
    }

    /// A number; a whole one if asked so. 1 where the text has none.
    pub(crate) fn number(&mut self, whole: bool) -> f64 {
        let fitting: Vec<f64> = self.numbers.iter().copied().filter(|n| !whole || n.fract() == 0.0).collect();
        if fitting.is_empty() {
            return 1.0;
        }
        let number = fitting[self.next_number % fitting.len()];
        self.next_number += 1;
        number
    }

    /// The value that the text mentions first, else the first one.
    pub(crate) fn one_of(&self, values: &[Value]) -> Value {
        let place = |value: &Value| match value {
            Value::String(text) if !text.is_empty() => self.lower.find(&text.to_lowercase()),
            Value::Number(number) => self.numbers.iter().position(|one| number.as_f64() == Some(*one)),
            _ => None,
        };
        let mentioned =
            values.iter().filter_map(|value| Some((place(value)?, value))).min_by_key(|(at, _)| *at);
        mentioned.map(|(_, value)| value).or(values.first()).cloned().unwrap_or(Value::Null)
    }
}

/// Names (capitals past the first word) first, then long words, then the rest.
fn by_weight<'a>(all: &[&'a str]) -> Vec<&'a str> {
    let rank = |index: usize, word: &str| {
        if word.parse::<f64>().is_ok() {
            3
        } else if index > 0 && word.starts_with(char::is_uppercase) && word.chars().any(char::is_lowercase) {
            0
        } else if word.chars().count() > 3 {
            1
        } else {
            2
        }
    };
    let mut ranked: Vec<(u8, &str)> =
        all.iter().enumerate().map(|(index, word)| (rank(index, word), *word)).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, word)| word).collect()
}
