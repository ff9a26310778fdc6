//! Bytes to model and back, per dialect: what a request asks for, where an answer ends, what it cost, and
//! how a refusal reads to the one who asked. Pure: fed bytes, gives bytes and nouns; what it does not
//! understand passes untouched.

pub mod answer;
pub mod calls;
pub mod detect;
pub mod fold;
mod headers;
mod llm;
pub mod mcp;
pub mod openai;
pub mod probe;
pub mod refusal;
pub mod sse;
pub mod status;
pub mod tool_key;
mod unpack;
mod usage;

pub use answer::{Answer, AnswerHead, AnswerOptions, Cut, Outcome, Piece};
pub use detect::{BadRequest, Inspected, RequestView, inspect};
pub use headers::Headers;
pub use mcp::{McpCall, McpMessage};
pub use refusal::{Refusal, Rendered};
