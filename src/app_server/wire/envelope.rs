//! JSON-RPC without the `jsonrpc` member.

use std::borrow::Cow;

use bytes::Bytes;
use jsonrpsee_types::{ErrorObjectOwned, Id};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The id of a server request, echoed in our answer as it came.
pub(in crate::app_server) type RequestId<'a> = &'a RawValue;

/// One message of the app-server. The payload stays undecoded.
#[derive(Debug)]
pub(in crate::app_server) enum Incoming<'a> {
    /// Answers a request of ours.
    Reply { id: Id<'a>, outcome: Result<&'a RawValue, Refusal> },
    /// Wants an answer.
    Request { id: RequestId<'a>, method: Cow<'a, str>, params: &'a RawValue },
    /// Wants none.
    Notification { method: Cow<'a, str>, params: &'a RawValue },
}

/// The `error` of a reply.
#[derive(Debug, Clone)]
pub(in crate::app_server) struct Refusal {
    /// Code, message, data.
    pub(in crate::app_server) error: ErrorObjectOwned,
}

impl<'a> Incoming<'a> {
    /// Tells the message's shape; borrows everything from `text`.
    pub(in crate::app_server) fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        let envelope: Envelope<'a> = serde_json::from_str(text)?;
        match envelope {
            Envelope { id: Some(id), method: Some(Text(method)), params, .. } => {
                Ok(Self::Request { id, method, params: params.unwrap_or(RawValue::NULL) })
            }
            Envelope { id: None, method: Some(Text(method)), params, .. } => {
                Ok(Self::Notification { method, params: params.unwrap_or(RawValue::NULL) })
            }
            Envelope { id: Some(id), error: Some(error), .. } => {
                Ok(Self::Reply { id: serde_json::from_str(id.get())?, outcome: Err(error.into()) })
            }
            Envelope { id: Some(id), result, .. } => Ok(Self::Reply {
                id: serde_json::from_str(id.get())?,
                outcome: Ok(result.unwrap_or(RawValue::NULL)),
            }),
            Envelope { id: None, method: None, .. } => {
                Err(serde::de::Error::custom("neither an id nor a method"))
            }
        }
    }
}

/// A request of ours.
pub(in crate::app_server) fn encode_request<P: Serialize>(
    id: u64,
    method: &str,
    params: &P,
) -> Result<Bytes, serde_json::Error> {
    #[derive(Serialize)]
    struct Request<'a, P> {
        id: u64,
        method: &'a str,
        params: &'a P,
    }
    Ok(serde_json::to_vec(&Request { id, method, params })?.into())
}

/// A notification of ours, without parameters.
pub(in crate::app_server) fn encode_notification(method: &str) -> Result<Bytes, serde_json::Error> {
    #[derive(Serialize)]
    struct Notification<'a> {
        method: &'a str,
    }
    Ok(serde_json::to_vec(&Notification { method })?.into())
}

/// Our answer to a server request.
pub(in crate::app_server) fn encode_result<R: Serialize>(
    id: RequestId<'_>,
    result: &R,
) -> Result<Bytes, serde_json::Error> {
    #[derive(Serialize)]
    struct Answer<'a, R> {
        id: RequestId<'a>,
        result: &'a R,
    }
    Ok(serde_json::to_vec(&Answer { id, result })?.into())
}

/// Our refusal of a server request.
pub(in crate::app_server) fn encode_refusal(
    id: RequestId<'_>,
    error: &ErrorObjectOwned,
) -> Result<Bytes, serde_json::Error> {
    #[derive(Serialize)]
    struct Answer<'a> {
        id: RequestId<'a>,
        error: &'a ErrorObjectOwned,
    }
    Ok(serde_json::to_vec(&Answer { id, error })?.into())
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Text<'a>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<WireError>,
}

/// Borrowed where the text holds no escapes (`Option<Cow<str>>` would always copy).
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Lenient: `ErrorObject` itself refuses unknown fields.
#[derive(Deserialize)]
struct WireError {
    #[serde(default)]
    code: i32,
    #[serde(default)]
    message: String,
    #[serde(default)]
    data: Option<Box<RawValue>>,
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        Self { error: ErrorObjectOwned::owned(error.code, error.message, error.data) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_four_shapes_apart() {
        let reply = Incoming::parse(r#"{"id":7,"result":{"a":1},"emittedAtMs":1}"#).unwrap();
        assert!(
            matches!(reply, Incoming::Reply { id: Id::Number(7), outcome: Ok(raw) } if raw.get() == r#"{"a":1}"#)
        );
        let refusal =
            Incoming::parse(r#"{"error":{"code":-32001,"message":"busy","data":{"x":1},"more":2},"id":7}"#)
                .unwrap();
        assert!(
            matches!(refusal, Incoming::Reply { outcome: Err(refusal), .. } if refusal.error.code() == -32001)
        );
        let notification = Incoming::parse(r#"{"method":"turn/started","params":{}}"#).unwrap();
        assert!(matches!(notification, Incoming::Notification { method, .. } if method == "turn/started"));
        let request = Incoming::parse(r#"{"id":"abc","method":"item/tool/call","params":{"q":2}}"#).unwrap();
        assert!(matches!(request, Incoming::Request { id, .. } if id.get() == "\"abc\""));
    }

    #[test]
    fn null_results_and_absent_params_are_fine() {
        let reply = Incoming::parse(r#"{"id":1,"result":null}"#).unwrap();
        assert!(matches!(reply, Incoming::Reply { outcome: Ok(raw), .. } if raw.get() == "null"));
        let bare = Incoming::parse(r#"{"method":"x"}"#).unwrap();
        assert!(matches!(bare, Incoming::Notification { params, .. } if params.get() == "null"));
        assert!(Incoming::parse("{}").is_err());
        assert!(Incoming::parse("[{}]").is_err());
    }

    #[test]
    fn writes_no_jsonrpc_member_and_echoes_ids() {
        assert_eq!(&encode_request(3, "m", &[1]).unwrap()[..], br#"{"id":3,"method":"m","params":[1]}"#);
        let id: Box<RawValue> = serde_json::from_str("-4").unwrap();
        assert_eq!(&encode_result(&id, &true).unwrap()[..], br#"{"id":-4,"result":true}"#);
        let error = ErrorObjectOwned::owned(-32601, "no", None::<()>);
        assert_eq!(
            &encode_refusal(&id, &error).unwrap()[..],
            br#"{"id":-4,"error":{"code":-32601,"message":"no"}}"#
        );
    }
}
