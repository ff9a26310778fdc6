//! A request body that lies in memory in a few pieces: an edited one shares everything but the edit with the
//! body it was made from.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::json::Edit;

/// At most as many pieces as one edit makes.
#[derive(Clone, Debug)]
pub(crate) struct Pieces {
    /// In order; the empty ones are passed over.
    pieces: [Bytes; 3],
}

impl Pieces {
    /// `body` with `edit` made. A place outside the body changes nothing.
    pub(crate) fn edited(body: &Bytes, edit: &Edit) -> Self {
        if edit.at.start > edit.at.end || edit.at.end > body.len() {
            return body.clone().into();
        }
        let with = Bytes::copy_from_slice(&edit.with);
        Self { pieces: [body.slice(..edit.at.start), with, body.slice(edit.at.end..)] }
    }

    fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

impl From<Bytes> for Pieces {
    fn from(whole: Bytes) -> Self {
        Self { pieces: [whole, Bytes::new(), Bytes::new()] }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.pieces.iter_mut().find(|piece| !piece.is_empty());
        Poll::Ready(next.map(|piece| Ok(Frame::data(std::mem::take(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.len() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn check(body: &'static [u8], edit: Edit, pieces: usize) {
        let expected = edit.apply(body);
        let mut edited = Pieces::edited(&Bytes::from_static(body), &edit);
        assert_eq!(edited.size_hint().exact(), Some(expected.len() as u64));
        let (mut found, mut frames) = (Vec::new(), 0);
        while let Some(Ok(frame)) = edited.frame().await {
            found.extend_from_slice(&frame.into_data().unwrap());
            frames += 1;
        }
        assert_eq!((found, frames), (expected, pieces));
        assert!(edited.is_end_stream());
    }

    #[tokio::test]
    async fn an_edited_body_is_what_the_edit_says_in_as_few_pieces_as_it_takes() {
        let edit = |at, with: &'static [u8]| Edit { at, with: with.into() };
        check(b"{\"a\":1}", edit(6..6, b",\"b\":2"), 3).await;
        check(b"{\"a\":1}", edit(0..7, b"[]"), 1).await;
        check(b"{\"a\":1}", edit(1..6, b""), 2).await;
        check(b"{}", edit(9..9, b"x"), 1).await;
        check(b"", edit(0..0, b""), 0).await;
    }
}
