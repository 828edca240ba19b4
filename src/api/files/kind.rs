//! What a file is, by what it is called and by what is in it, and the text of one that is text.

use std::borrow::Cow;

use super::Fault;

/// A file that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text as it stands.
    Text(Encoding),
    /// Text is to be extracted.
    Pdf,
}

/// How text is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    Utf16Le,
    Utf16Be,
}

const PDF: &str = "application/pdf";
const UTF8_BOM: &[u8] = b"\xef\xbb\xbf";
/// A PDF may have this much before its head, as common readers take it.
const PDF_HEAD: usize = 1024;

/// Whether content of a declared type may be read at all: what is known to be no text is not even fetched.
pub(super) fn may_be_readable(media_type: &str) -> bool {
    let (kind, of_kind) = media_type.split_once('/').unwrap_or((media_type, ""));
    // Whatever it is for, it is written as text.
    if of_kind.ends_with("+xml") || of_kind.ends_with("+json") {
        return true;
    }
    match kind {
        "image" | "audio" | "video" | "font" | "model" => false,
        "application" => {
            !of_kind.starts_with("vnd.") && !matches!(of_kind, "msword" | "rtf" | "zip" | "gzip")
        }
        _ => of_kind != "rtf",
    }
}

/// What the bytes are. `media_type` is the declared one, `name` the file's.
pub(super) fn of(bytes: &[u8], media_type: Option<&str>, name: Option<&str>) -> Result<Kind, Fault> {
    if bytes.is_empty() {
        return Err(Fault::Empty);
    }
    if image::guess_format(bytes).is_ok()
        || media_type.is_some_and(|kind| kind.starts_with("image/") && !may_be_readable(kind))
    {
        return Err(Fault::Image);
    }
    if media_type.is_some_and(|kind| !may_be_readable(kind)) || is_document(bytes) {
        return Err(Fault::Unsupported);
    }
    if is_pdf(bytes) {
        return Ok(Kind::Pdf);
    }
    let named_pdf = name.is_some_and(|name| name.to_ascii_lowercase().ends_with(".pdf"));
    if media_type == Some(PDF) || named_pdf {
        return Err(Fault::NotPdf);
    }
    encoding(bytes).map(Kind::Text).ok_or(Fault::NotText)
}

fn is_pdf(bytes: &[u8]) -> bool {
    const MAGIC: &[u8] = b"%PDF-";
    let head = &bytes[..bytes.len().min(PDF_HEAD)];
    // Text that speaks of PDFs is text: what stands before the head of a real one is never much of a text.
    bytes.starts_with(MAGIC) || (encoding(bytes).is_none() && head.windows(MAGIC.len()).any(|at| at == MAGIC))
}

/// Office documents and archives: some of them would pass for text.
fn is_document(bytes: &[u8]) -> bool {
    [b"PK\x03\x04".as_slice(), b"\xd0\xcf\x11\xe0", b"{\\rtf"].iter().any(|magic| bytes.starts_with(magic))
}

fn encoding(bytes: &[u8]) -> Option<Encoding> {
    // The other byte order of four bytes begins like the one of two.
    if bytes.starts_with(b"\xff\xfe") && !bytes.starts_with(b"\xff\xfe\0\0") {
        return Some(Encoding::Utf16Le);
    }
    if bytes.starts_with(b"\xfe\xff") {
        return Some(Encoding::Utf16Be);
    }
    (!bytes.contains(&0) && std::str::from_utf8(bytes).is_ok()).then_some(Encoding::Utf8)
}

/// The text, without a byte order mark.
pub(super) fn text(bytes: &[u8], encoding: Encoding) -> Result<Cow<'_, str>, Fault> {
    let unit = match encoding {
        Encoding::Utf8 => {
            let bytes = bytes.strip_prefix(UTF8_BOM).unwrap_or(bytes);
            return std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| Fault::NotText);
        }
        Encoding::Utf16Le => u16::from_le_bytes,
        Encoding::Utf16Be => u16::from_be_bytes,
    };
    let (units, rest) = bytes[2..].as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Fault::NotText);
    }
    let decoded = char::decode_utf16(units.iter().map(|bytes| unit(*bytes))).collect::<Result<String, _>>();
    let text = decoded.ok().filter(|text| !text.contains('\0'));
    text.map(Cow::Owned).ok_or(Fault::NotText)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<String, Fault> {
        match of(bytes, None, None)? {
            Kind::Text(encoding) => text(bytes, encoding).map(Cow::into_owned),
            Kind::Pdf => panic!("a PDF"),
        }
    }

    #[test]
    fn text_is_read_in_its_encodings() {
        assert_eq!(read("héllo\n".as_bytes()).unwrap(), "héllo\n");
        assert_eq!(read(b"\xef\xbb\xbfhi").unwrap(), "hi");
        let utf16 = |bom: [u8; 2], bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            bom.into_iter().chain("hé😀".encode_utf16().flat_map(bytes)).collect()
        };
        assert_eq!(read(&utf16([0xff, 0xfe], u16::to_le_bytes)).unwrap(), "hé😀");
        assert_eq!(read(&utf16([0xfe, 0xff], u16::to_be_bytes)).unwrap(), "hé😀");
        for bytes in [
            b"\xe9t\xe9".as_slice(),
            b"a\0b",
            b"h\0i\0",
            b"\xff\xfeh",
            b"\xff\xfe\x00\xd8",
            b"\xff\xfe\0\0h\0\0\0",
            b"\x7fELF\x02\x01\x01\0",
        ] {
            assert_eq!(read(bytes), Err(Fault::NotText), "{bytes:?}");
        }
        assert_eq!(read(b""), Err(Fault::Empty));
    }

    #[test]
    fn what_is_called_and_what_is_in_it_must_agree() {
        let text = Ok(Kind::Text(Encoding::Utf8));
        for (bytes, media_type, name, kind) in [
            (b"a,b".as_slice(), Some("text/csv"), None, text.clone()),
            (b"{}", Some("application/json"), None, text.clone()),
            (b"{}", Some("application/vnd.api+json"), None, text.clone()),
            (b"<svg/>", Some("image/svg+xml"), None, text.clone()),
            (b"fn main() {}", Some("application/octet-stream"), Some("main.rs"), text.clone()),
            (b"a file about %PDF-1.7", None, Some("notes.md"), text),
            (b"%PDF-1.7", None, None, Ok(Kind::Pdf)),
            (b"%PDF-1.7", Some("text/plain"), None, Ok(Kind::Pdf)),
            (b"\xff\x00junk%PDF-1.7", None, None, Ok(Kind::Pdf)),
            (b"hello", Some(PDF), None, Err(Fault::NotPdf)),
            (b"hello", None, Some("Report.PDF"), Err(Fault::NotPdf)),
            (b"PK\x03\x04...", None, Some("a.docx"), Err(Fault::Unsupported)),
            (b"\xd0\xcf\x11\xe0...", None, None, Err(Fault::Unsupported)),
            (b"{\\rtf1 hello}", None, None, Err(Fault::Unsupported)),
            (b"hello", Some("application/msword"), None, Err(Fault::Unsupported)),
            (b"hello", Some("application/vnd.ms-excel"), None, Err(Fault::Unsupported)),
            (b"hello", Some("video/mp4"), None, Err(Fault::Unsupported)),
            (b"hello", Some("image/png"), None, Err(Fault::Image)),
            (b"\x89PNG\r\n\x1a\n", None, None, Err(Fault::Image)),
        ] {
            assert_eq!(of(bytes, media_type, name), kind, "{bytes:?} {media_type:?} {name:?}");
        }
    }
}
