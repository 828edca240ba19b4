//! The text of a PDF. PDFs are a hostile format and their readers panic, loop and eat memory on bad ones: this
//! runs in a process of its own, whose limits are the kernel's to hold. See `reader.rs` for the other end.

use std::io::{self, Read as _, Write};
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use pdf_extract::{Document, Error, OutputError, PlainTextOutput, output_doc_page};

/// What the process may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Pages of the PDF.
    pub pages: usize,
    /// Text that comes out, bytes.
    pub text: usize,
    /// Address space, bytes.
    pub memory: usize,
    /// Processor time; whole seconds, rounded up.
    pub time: Duration,
}

/// Why there is no text, as the process's exit code tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PdfFault {
    /// Cannot be read.
    Damaged,
    /// Wants a password.
    Encrypted,
    /// Nothing but pictures.
    NoText,
    /// Too many pages.
    Pages,
    /// Too much text.
    Text,
}

impl PdfFault {
    const ALL: [Self; 5] = [Self::Damaged, Self::Encrypted, Self::NoText, Self::Pages, Self::Text];

    /// The process's exit code: away from those that a shell, a panic or clap give.
    pub fn code(self) -> u8 {
        match self {
            Self::Damaged => 40,
            Self::Encrypted => 41,
            Self::NoText => 42,
            Self::Pages => 43,
            Self::Text => 44,
        }
    }

    /// The fault behind an exit code. A panic or a signal is a damaged file.
    pub(super) fn of_code(code: Option<i32>) -> Self {
        let told = Self::ALL.into_iter().find(|fault| code == Some(fault.code().into()));
        told.unwrap_or(Self::Damaged)
    }
}

/// Why the process did not even begin.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// A limit could not be set: nothing is read without it.
    #[error("a limit cannot be set: {0}")]
    Limit(#[from] nix::Error),
    /// One end of the pipes is gone.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The whole life of the process: the PDF from standard input, its text to standard output.
pub fn run(limits: Limits) -> Result<Result<(), PdfFault>, ExtractError> {
    confine(limits)?;
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    let text = match text(&bytes, limits) {
        Ok(text) => text,
        Err(fault) => return Ok(Err(fault)),
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(Ok(()))
}

/// No core, no files, no more memory or time than it is given: it cannot outlive even a parent that is killed.
fn confine(limits: Limits) -> Result<(), nix::Error> {
    let bytes = u64::try_from(limits.memory).unwrap_or(u64::MAX);
    let seconds = limits.time.as_secs() + u64::from(limits.time.subsec_nanos() > 0);
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0)?;
    setrlimit(Resource::RLIMIT_NOFILE, 0, 0)?;
    setrlimit(Resource::RLIMIT_AS, bytes, bytes)?;
    // Once the soft limit is passed a signal ends it; the hard one is for a second that never comes.
    setrlimit(Resource::RLIMIT_CPU, seconds.max(1), seconds.max(1) + 1)
}

/// The text of all pages, an empty line between two.
fn text(bytes: &[u8], limits: Limits) -> Result<String, PdfFault> {
    let document = open(bytes)?;
    let pages = document.get_pages();
    if pages.len() > limits.pages {
        return Err(PdfFault::Pages);
    }
    let mut text = String::new();
    for page in pages.into_keys() {
        let mut said = Bounded { bytes: Vec::new(), left: limits.text.saturating_sub(text.len()) };
        let writer: &mut dyn Write = &mut said;
        output_doc_page(&document, &mut PlainTextOutput::new(writer), page).map_err(|error| match error {
            // The writer's one reason to fail.
            OutputError::FormatError(_) | OutputError::IoError(_) => PdfFault::Text,
            OutputError::PdfError(error) => fault(&error),
        })?;
        let said = String::from_utf8_lossy(&said.bytes);
        let said = said.trim();
        if !text.is_empty() && !said.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(said);
    }
    if text.is_empty() { Err(PdfFault::NoText) } else { Ok(text) }
}

/// A PDF whose owner forbids things and lets everybody read it is encrypted with the empty password.
fn open(bytes: &[u8]) -> Result<Document, PdfFault> {
    let mut document = Document::load_mem(bytes).map_err(|error| fault(&error))?;
    if document.is_encrypted() {
        document.decrypt("").map_err(|_| PdfFault::Encrypted)?;
    }
    Ok(document)
}

fn fault(error: &Error) -> PdfFault {
    match error {
        Error::Decryption(_) | Error::InvalidPassword | Error::UnsupportedSecurityHandler(_) => {
            PdfFault::Encrypted
        }
        _ => PdfFault::Damaged,
    }
}

/// Takes so much and then fails.
struct Bounded {
    bytes: Vec<u8>,
    left: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.left {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.left -= bytes.len();
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
