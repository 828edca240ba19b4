//! Stop sequences across delta boundaries.

/// Looks for the first sequence that completes; holds back what may be the beginning of one.
#[derive(Debug, Clone)]
pub(super) struct StopFinder {
    stops: Vec<String>,
    /// Not told yet: a suffix of the text that begins some sequence.
    held: String,
    found: bool,
}

impl StopFinder {
    /// `stops` are not empty strings.
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new(), found: false }
    }

    /// The text that is certainly before any sequence.
    pub(super) fn push(&mut self, text: &str) -> String {
        if self.found {
            return String::new();
        }
        let mut text = std::mem::take(&mut self.held) + text;
        // The first to complete; of two that complete together the longer one.
        let ends =
            self.stops.iter().filter_map(|stop| text.find(stop.as_str()).map(|at| (at + stop.len(), at)));
        if let Some((_, at)) = ends.min() {
            self.found = true;
            text.truncate(at);
            return text;
        }
        let held = self.stops.iter().map(|stop| overlap(&text, stop)).max().unwrap_or(0);
        self.held = text.split_off(text.len() - held);
        text
    }

    /// What was held back, when nothing more comes.
    pub(super) fn end(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    pub(super) fn found(&self) -> bool {
        self.found
    }
}

/// How many bytes at the end of `text` begin `stop`, short of all of it.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    let fits = |n: &usize| stop.is_char_boundary(*n) && text.ends_with(&stop[..*n]);
    (1..=longest).rev().find(fits).unwrap_or(0)
}
