//! Models and the account, as the app-server names them.

/// One model of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// What requests name.
    pub id: String,
    /// For people.
    pub display_name: String,
    /// For people.
    pub description: String,
    /// Hidden models answer but are not listed by pickers.
    pub hidden: bool,
    /// The account's default model.
    pub is_default: bool,
    /// Reasoning efforts it takes.
    pub efforts: Vec<String>,
    /// The effort when none is asked for.
    pub default_effort: Option<String>,
    /// `text`, `image`, `audio`.
    pub input_modalities: Vec<String>,
    /// Service tiers it can run in.
    pub service_tiers: Vec<String>,
    /// Tokens of input it takes, where known.
    pub context_window: Option<u64>,
    /// Whether it can be given the backend's own web search, where known.
    pub web_search: Option<bool>,
}

impl ModelInfo {
    /// Whether it takes images; an old app-server names no modalities, and its models all take text and images.
    pub fn takes_images(&self) -> bool {
        self.input_modalities.is_empty() || self.takes("image")
    }

    /// Whether it takes audio.
    pub fn takes_audio(&self) -> bool {
        self.takes("audio")
    }

    fn takes(&self, modality: &str) -> bool {
        self.input_modalities.iter().any(|known| known == modality)
    }
}

/// Who is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Stable while the same account is logged in; a digest or opaque id, never an address.
    pub identity: String,
    /// `chatgpt`, `apiKey`, …: the app-server's own word.
    pub kind: String,
    /// The plan, where there is one.
    pub plan: Option<String>,
}

/// The login as `account/read` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginState {
    /// Calls can be made as this account.
    LoggedIn(Account),
    /// The provider needs a login and there is none.
    LoggedOut,
    /// The provider needs no login (a custom one, say).
    NotNeeded,
}

impl LoginState {
    /// The account that calls are made as, where there is one.
    pub fn identity(&self) -> Option<&str> {
        match self {
            Self::LoggedIn(account) => Some(&account.identity),
            Self::LoggedOut | Self::NotNeeded => None,
        }
    }
}
