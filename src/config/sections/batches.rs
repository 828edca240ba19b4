//! `batches.*`.

use std::time::Duration;

/// Batches of requests, and the files they are read from and written to.
#[derive(Debug, Clone)]
pub struct BatchesConfig {
    /// Rows that run at once, of all batches together.
    pub concurrency: usize,
    /// Most that have not ended.
    pub max_open: usize,
    /// Most requests of one batch.
    pub max_rows: usize,
    /// After this long what has no result gets none any more.
    pub window: Duration,
    /// Largest uploaded file, bytes.
    pub max_file_bytes: usize,
    /// All files together, bytes; past it none is uploaded.
    pub max_files_bytes: usize,
    /// An upload must be whole by then.
    pub upload_timeout: Duration,
}

impl Default for BatchesConfig {
    fn default() -> Self {
        Self {
            // Half of the usual slots.
            concurrency: 4,
            max_open: 100,
            // The official bounds.
            max_rows: 50_000,
            window: Duration::from_secs(24 * 3600),
            max_file_bytes: 200 * 1024 * 1024,
            // Half of what all documents may take: results want room too.
            max_files_bytes: 512 * 1024 * 1024,
            upload_timeout: Duration::from_secs(600),
        }
    }
}
