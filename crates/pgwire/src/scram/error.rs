//! Why an exchange ended.

/// Why an exchange ended. No text holds a key, a proof, a nonce, or bytes of the other side that are not printable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// The message does not follow the grammar of RFC 5802, section 7.
    #[error("malformed SCRAM message {message}: {wrong}")]
    Malformed {
        /// Which of the four, by the RFC's name.
        message: &'static str,
        /// What is wrong with it.
        wrong: &'static str,
    },
    /// An attribute is missing, out of order, or without its `=`.
    #[error("malformed SCRAM message {message}: attribute \"{attribute}=\" expected")]
    Attribute {
        /// Which of the four, by the RFC's name.
        message: &'static str,
        /// The letter that should have stood there.
        attribute: char,
    },
    /// `m=`: an extension without which the other side does not go on.
    #[error("the client requires a mandatory SCRAM extension; none is supported")]
    Extension,
    /// `a=`: to act for another user.
    #[error("the client uses a SCRAM authorization identity, which is not supported")]
    AuthorizationIdentity,
    /// SCRAM-SHA-256-PLUS without having been offered.
    #[error("the client chose SCRAM-SHA-256-PLUS, which was not offered on this connection")]
    NotOffered,
    /// SCRAM-SHA-256-PLUS with the flag `n` or `y`.
    #[error("the client chose SCRAM-SHA-256-PLUS, but its message has no channel binding")]
    BindingMissing,
    /// SCRAM-SHA-256 with the flag `p=`.
    #[error("the client chose SCRAM-SHA-256 without channel binding, but its message has one")]
    BindingUnasked,
    /// The flag `y` though SCRAM-SHA-256-PLUS was offered: somebody between took it out of the offer.
    #[error(
        "SCRAM channel binding negotiation: the client thinks that the server does not support channel binding, but it was \
         offered; something between them may have changed the offer"
    )]
    BindingDowngraded,
    /// Another type than `tls-server-end-point`.
    #[error("the client uses a type of SCRAM channel binding other than tls-server-end-point")]
    BindingType,
    /// The client saw another certificate than the one that was shown, or contradicts its first message.
    #[error("SCRAM channel binding check failed")]
    BindingDiffers,
    /// The nonce is not the one of this exchange.
    #[error("invalid SCRAM nonce in {message}")]
    NonceDiffers {
        /// Which of the four, by the RFC's name.
        message: &'static str,
    },
    /// The caller's own nonce cannot be sent.
    #[error("the nonce made for this exchange is empty, too long or not printable")]
    OwnNonce,
    /// A wrong password, or a user that does not exist.
    #[error("the SCRAM proof does not fit: wrong password, or no such user")]
    WrongProof,
    /// A message before its time, or a second time.
    #[error("SCRAM message {message} out of order")]
    OutOfOrder {
        /// Which of the four, by the RFC's name.
        message: &'static str,
    },
    /// The server asks for so many iterations that a login becomes an attack on the client.
    #[error("the server asks for more than {limit} SCRAM iterations")]
    TooManyIterations {
        /// The most that is done.
        limit: u32,
    },
    /// `e=`: the server says why it refuses.
    #[error("the server refuses the SCRAM exchange: {reason}")]
    Refused {
        /// The server's word, or a stand-in if it is not printable.
        reason: String,
    },
    /// The server does not hold this user's verifier: it is not the one that it claims to be.
    #[error("the server's SCRAM signature does not fit: it does not know this user's verifier")]
    WrongSignature,
}

impl ScramError {
    /// The SQLSTATE with which PostgreSQL refuses a client in the same place.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            // protocol_violation
            ScramError::Malformed { .. }
            | ScramError::Attribute { .. }
            | ScramError::NotOffered
            | ScramError::BindingMissing
            | ScramError::BindingUnasked
            | ScramError::BindingType
            | ScramError::NonceDiffers { .. }
            | ScramError::OutOfOrder { .. } => "08P01",
            // feature_not_supported
            ScramError::Extension | ScramError::AuthorizationIdentity => "0A000",
            // invalid_authorization_specification
            ScramError::BindingDowngraded | ScramError::BindingDiffers => "28000",
            // invalid_password
            ScramError::WrongProof => "28P01",
            // internal_error; and what only our own side as a client can meet, where no client is to be blamed.
            ScramError::OwnNonce
            | ScramError::TooManyIterations { .. }
            | ScramError::Refused { .. }
            | ScramError::WrongSignature => "XX000",
        }
    }
}
