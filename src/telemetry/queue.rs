//! Between whoever logs and whoever reads: a thread of its own writes, so that a reader that stands still (a full
//! pipe, a journal that hangs) keeps no request waiting. What does not fit is dropped, and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait at most: some megabytes.
const WAITING: usize = 8192;
/// At the end, how long what still waits may take.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Between two looks for a place in a full queue, at the end.
const LOOK: Duration = Duration::from_millis(10);

enum Entry {
    Line(Vec<u8>),
    /// All that came before it is written: told there.
    End(std::sync::mpsc::Sender<()>),
}

/// Where lines go in. Never blocks.
#[derive(Clone)]
pub(super) struct Queue {
    entries: SyncSender<Entry>,
    /// Since the last time somebody was told.
    dropped: Arc<AtomicU64>,
}

/// Waits on drop, for a moment, until what was logged is written.
#[must_use = "dropped, it waits for the last lines"]
pub struct Flush(Queue);

impl Queue {
    /// Starts the thread that writes to `out`, which ends with the last copy of the queue.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (entries, received) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        thread::Builder::new().name("log".into()).spawn(move || write(out, &received, &counted))?;
        Ok(Self { entries, dropped })
    }

    pub(super) fn flush(&self) -> Flush {
        Flush(self.clone())
    }
}

fn write(mut out: impl Write, received: &Receiver<Entry>, dropped: &AtomicU64) {
    loop {
        let entry = match received.try_recv() {
            Err(TryRecvError::Empty) => {
                let lines = dropped.swap(0, Ordering::Relaxed);
                if lines > 0 {
                    // There is room for it now.
                    tracing::warn!(lines, "log lines were dropped: what reads the log was too slow");
                }
                received.recv().ok()
            }
            entry => entry.ok(),
        };
        match entry {
            // There is nobody to tell that a line cannot be written.
            Some(Entry::Line(line)) => drop(out.write_all(&line)),
            Some(Entry::End(done)) => {
                let _ = out.flush();
                let _ = done.send(());
            }
            None => return,
        }
    }
}

impl Write for &Queue {
    /// One event, whole.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.entries.try_send(Entry::Line(event.to_vec())) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'queue> MakeWriter<'queue> for Queue {
    type Writer = &'queue Self;

    fn make_writer(&'queue self) -> Self::Writer {
        self
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let until = Instant::now() + LAST_LINES;
        let (done, written) = channel();
        let mut end = Entry::End(done);
        while let Err(TrySendError::Full(again)) = self.0.entries.try_send(end) {
            if Instant::now() >= until {
                return;
            }
            end = again;
            thread::sleep(LOOK);
        }
        let _ = written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

impl std::fmt::Debug for Flush {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flush").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Writes once it is let.
    struct Gated {
        gate: Receiver<()>,
        open: bool,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.open {
                self.gate.recv().unwrap();
                self.open = true;
            }
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_holds_nobody_up_and_what_does_not_fit_is_counted() {
        const LINES: usize = WAITING + 1000;
        let written = Arc::new(Mutex::new(Vec::new()));
        let (open, gate) = channel();
        let queue = Queue::start(Gated { gate, open: false, written: Arc::clone(&written) }).unwrap();
        let mut writer = &queue;
        for number in 0..LINES {
            writer.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        // One may be in the thread's hands.
        let dropped = usize::try_from(queue.dropped.load(Ordering::Relaxed)).unwrap();
        assert!((LINES - WAITING - 1..=LINES - WAITING).contains(&dropped), "{dropped}");
        open.send(()).unwrap();
        drop(queue.flush());
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let lines: Vec<String> = (0..LINES - dropped).map(|number| number.to_string()).collect();
        let expected = lines.join("\n") + "\n";
        assert!(written == expected, "{} bytes in place of {}", written.len(), expected.len());
    }

    #[test]
    fn the_end_waits_for_no_reader_for_long() {
        let (open, gate) = channel();
        let queue = Queue::start(Gated { gate, open: false, written: Arc::default() }).unwrap();
        (&queue).write_all(b"line\n").unwrap();
        let began = Instant::now();
        drop(queue.flush());
        assert!(began.elapsed() >= LAST_LINES);
        drop(open);
    }
}
