//! Reading header values from a plain list of names and values.

/// Header names (lower case) and values in the order they were sent.
pub type Headers<'a> = [(&'a str, &'a [u8])];

/// The first header of that name, if it is text.
pub(super) fn first<'a>(headers: &Headers<'a>, name: &str) -> Option<&'a str> {
    let (_, value) = headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(value).ok().map(str::trim)
}

/// A content type without its parameters: `text/event-stream; charset=utf-8` is `text/event-stream`.
pub(super) fn essence(content_type: &str) -> &str {
    content_type.split_once(';').map_or(content_type, |(essence, _)| essence).trim()
}

/// Whether a content type names JSON: `application/json`, `application/problem+json`...
pub(super) fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    let subtype = essence.rsplit_once('/').map_or("", |(_, subtype)| subtype);
    subtype.eq_ignore_ascii_case("json")
        || subtype.rsplit_once('+').is_some_and(|(_, suffix)| suffix.eq_ignore_ascii_case("json"))
}

pub(super) fn is_event_stream(content_type: &str) -> bool {
    essence(content_type).eq_ignore_ascii_case("text/event-stream")
}
