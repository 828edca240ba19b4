//! Compaction items of our own: what one holds is sealed, for the key that asked for it alone.
//!
//! A backend that makes items of its own seals them itself; those pass through as they are.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::error::ApiError;
use crate::bridge::Bridge;
use crate::model::{Item, KeyId};
use crate::store::Seal;

/// What an `encrypted_content` of ours begins with: whose it is, and the version of its form.
const PREFIX: &str = "cbc1.";

/// Seals and opens them.
#[derive(Debug)]
pub(crate) struct Compactions(Seal);

impl Compactions {
    pub(crate) fn new(seal: Seal) -> Self {
        Self(seal)
    }

    /// The compaction item that stands for what the bridge gives: one of the backend's is told as it is. `id` is for
    /// one of ours.
    pub(crate) fn told(&self, owner: &KeyId, id: String, summary: &Item) -> Option<Item> {
        if summary.is_compaction() {
            return Some(summary.clone());
        }
        let plain = serde_json::to_vec(summary).ok()?;
        let sealed = self.0.seal(&belongs_to(owner), &plain)?;
        let mut item = serde_json::Map::new();
        item.insert("type".into(), "compaction".into());
        item.insert("id".into(), id.into());
        item.insert("encrypted_content".into(), format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(sealed)).into());
        Some(Item::new(item))
    }

    /// Opens those of ours among `items`; `param` is how errors name the list.
    pub(crate) fn open(&self, owner: &KeyId, param: &str, items: &mut [Item]) -> Result<(), ApiError> {
        for (index, item) in items.iter_mut().enumerate().filter(|(_, item)| item.is_compaction()) {
            let content = item.str("encrypted_content").unwrap_or_default();
            let Some(sealed) = content.strip_prefix(PREFIX) else { continue };
            let summary = self.opened(owner, sealed).ok_or_else(|| invalid(param, index))?;
            let mut fields = item.fields().clone();
            fields.insert(Item::SUMMARY.into(), summary);
            *item = Item::new(fields);
        }
        Ok(())
    }

    /// The same for what goes to the model, where the others must be the backend's.
    pub(crate) async fn open_all(
        &self,
        bridge: &Bridge,
        owner: &KeyId,
        param: &str,
        items: &mut [Item],
    ) -> Result<(), ApiError> {
        self.open(owner, param, items)?;
        let foreign = items.iter().position(|item| item.is_compaction() && item.summary().is_none());
        match foreign {
            Some(index) if !bridge.knows_compactions().await? => Err(invalid(param, index)),
            _ => Ok(()),
        }
    }

    /// The message that was sealed.
    fn opened(&self, owner: &KeyId, sealed: &str) -> Option<Value> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let plain = self.0.open(&belongs_to(owner), &sealed)?;
        serde_json::from_slice(&plain).ok().filter(|summary: &Value| summary["type"] == "message")
    }
}

/// No response id looks like it.
fn belongs_to(owner: &KeyId) -> Vec<u8> {
    [b"codex-bridge compaction ".as_slice(), owner.as_str().as_bytes()].concat()
}

fn invalid(param: &str, index: usize) -> ApiError {
    let message = "The compaction item cannot be read: it was changed, or made for another key, by another bridge, \
                   or by another service.";
    ApiError::invalid(format!("{param}[{index}].encrypted_content"), message)
        .with_code("invalid_encrypted_content")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EncryptionKey;

    fn compactions(byte: u8) -> Compactions {
        Compactions::new(Seal::new(&EncryptionKey::new([byte; 32])))
    }

    fn code(result: Result<(), ApiError>) -> (String, String) {
        let error = result.unwrap_err();
        (error.code.unwrap(), error.param.unwrap())
    }

    #[test]
    fn what_is_sealed_is_opened_for_its_key_and_by_its_bridge_alone() {
        let (ours, owner) = (compactions(1), KeyId::new("one"));
        let summary = Item::input_text("user", "it was said: the words");
        let told = ours.told(&owner, "cmp_1".into(), &summary).unwrap();
        let content = told.str("encrypted_content").unwrap().to_owned();
        assert!(content.starts_with(PREFIX) && !content.contains("words"), "{content}");
        assert_eq!((told.kind(), told.id(), told.fields().len()), ("compaction", Some("cmp_1"), 3));

        let mut items = [Item::input_text("user", "hi"), told.clone()];
        ours.open(&owner, "input", &mut items).unwrap();
        assert_eq!(items[1].summary(), Some(summary));
        assert_eq!(items[1].str("encrypted_content"), Some(content.as_str()));

        let refused = ("invalid_encrypted_content".to_owned(), "input[0].encrypted_content".to_owned());
        let mut items = [told];
        assert_eq!(code(ours.open(&KeyId::new("two"), "input", &mut items)), refused);
        assert_eq!(code(compactions(2).open(&owner, "input", &mut items)), refused);
        for at in PREFIX.len()..content.len() {
            let mut changed = content.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            let item = serde_json::json!({"type": "compaction", "encrypted_content": changed});
            // The last digit may hold bits that are not read.
            if at + 1 < content.len() {
                assert_eq!(
                    code(ours.open(&owner, "input", &mut [Item::from_value(item).unwrap()])),
                    refused,
                    "{at}"
                );
            }
        }
    }

    #[test]
    fn the_backends_own_is_told_as_it_is_and_left_closed() {
        let (ours, owner) = (compactions(1), KeyId::new("one"));
        let item = serde_json::json!({"type": "compaction", "id": "cmp_up", "encrypted_content": "gAAAA"});
        let item = Item::from_value(item).unwrap();
        assert_eq!(ours.told(&owner, "cmp_1".into(), &item), Some(item.clone()));
        let mut items = [item.clone()];
        ours.open(&owner, "input", &mut items).unwrap();
        assert_eq!(items, [item]);
    }
}
