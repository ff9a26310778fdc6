//! Who a call comes from, as far as anybody vouches for it. Says nothing of how that was proved.

use std::fmt;

/// What proved who somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    X509Svid,
    JwtSvid,
    Oidc,
    /// Nothing did.
    None,
}

impl Proof {
    /// As policies see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X509Svid => "x509-svid",
            Self::JwtSvid => "jwt-svid",
            Self::Oidc => "oidc",
            Self::None => "none",
        }
    }
}

/// Who a call comes from. There always is one: of somebody who proves nothing it is [`Principal::anonymous`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// A SPIFFE id, or the name that the issuer of a token gives.
    pub id: String,
    /// Somebody vouches for the id.
    pub verified: bool,
    pub proof: Proof,
    /// Who vouches; empty where nobody does.
    pub trust_domain: String,
    /// In Kubernetes.
    pub namespace: Option<String>,
    /// In Kubernetes.
    pub service_account: Option<String>,
    /// The groups it belongs to.
    pub groups: Vec<String>,
}

impl Principal {
    /// The id of everybody who proves nothing.
    pub const ANONYMOUS: &str = "anonymous";

    pub fn anonymous() -> Self {
        Self {
            id: Self::ANONYMOUS.to_owned(),
            verified: false,
            proof: Proof::None,
            trust_domain: String::new(),
            namespace: None,
            service_account: None,
            groups: Vec::new(),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}
