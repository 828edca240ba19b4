//! What a scenario found: notes, a table, and the line a script reads.

use std::fmt;

use serde::Serialize;

/// The result of one scenario.
#[derive(Debug, Default)]
pub(crate) struct Report {
    scenario: &'static str,
    /// How it was measured.
    notes: Vec<String>,
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<Cell>)>,
    /// The last line, in order.
    results: Vec<(&'static str, Cell)>,
}

/// A figure and the decimals it deserves; `None` where there is none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    value: Option<f64>,
    decimals: usize,
}

impl Report {
    pub(crate) fn new(scenario: &'static str, columns: Vec<&'static str>) -> Self {
        Self { scenario, columns, ..Self::default() }
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(crate) fn row(&mut self, name: impl Into<String>, cells: Vec<Cell>) {
        self.rows.push((name.into(), cells));
    }

    pub(crate) fn result(&mut self, name: &'static str, cell: Cell) {
        self.results.push((name, cell));
    }

    pub(crate) fn json(&self) -> serde_json::Result<String> {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|(name, cells)| {
                let cells: serde_json::Map<_, _> = self
                    .columns
                    .iter()
                    .zip(cells)
                    .map(|(column, cell)| ((*column).to_owned(), serde_json::json!(cell)))
                    .collect();
                serde_json::json!({ "name": name, "figures": cells })
            })
            .collect();
        let results: serde_json::Map<_, _> =
            self.results.iter().map(|(name, cell)| ((*name).to_owned(), serde_json::json!(cell))).collect();
        let report = serde_json::json!({
            "scenario": self.scenario,
            "notes": self.notes,
            "rows": rows,
            "results": results,
        });
        Ok(serde_json::to_string_pretty(&report)? + "\n")
    }
}

impl Cell {
    /// A whole number.
    #[expect(clippy::cast_precision_loss, reason = "counts here stay far below 2^52")]
    pub(crate) fn count(value: u64) -> Self {
        Self { value: Some(value as f64), decimals: 0 }
    }

    pub(crate) fn new(value: f64, decimals: usize) -> Self {
        Self { value: Some(value), decimals }
    }

    pub(crate) fn none() -> Self {
        Self { value: None, decimals: 0 }
    }
}

impl Serialize for Cell {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            // As printed.
            Some(value) => format!("{value:.*}", self.decimals).parse::<serde_json::Number>().ok(),
            None => None,
        }
        .serialize(serializer)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Some(value) => f.pad(&format!("{value:.*}", self.decimals)),
            None => f.pad("-"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        let names = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        write!(f, "\n{:names$}", "")?;
        for column in &self.columns {
            write!(f, "  {column:>12}")?;
        }
        writeln!(f)?;
        for (name, cells) in &self.rows {
            write!(f, "{name:names$}")?;
            for (cell, column) in cells.iter().zip(&self.columns) {
                let width = column.len().max(12);
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        for (n, (name, cell)) in self.results.iter().enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{name}={cell}")?;
        }
        Ok(())
    }
}
