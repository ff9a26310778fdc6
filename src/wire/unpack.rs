//! Looks into a compressed answer as it comes. Only looks: what leaves are the bytes that came.

use std::fmt;
use std::io::{self, Write};

use bytes::Bytes;

/// The compressed bytes are not what their `Content-Encoding` says, or make too much of too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged;

/// Follows one compressed body.
pub(super) struct Unpacker(Decoder);

enum Decoder {
    Brotli(Box<brotli::DecompressorWriter<Sink>>),
    Deflate(flate2::write::ZlibDecoder<Sink>),
    Gzip(flate2::write::MultiGzDecoder<Sink>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Sink>>),
}

/// Takes what the last bytes made.
#[derive(Debug, Default)]
struct Sink(Vec<u8>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len().saturating_add(bytes.len()) > Unpacker::PIECE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Decoder::Brotli(_) => "Unpacker(br)",
            Decoder::Deflate(_) => "Unpacker(deflate)",
            Decoder::Gzip(_) => "Unpacker(gzip)",
            Decoder::Zstd(_) => "Unpacker(zstd)",
        })
    }
}

impl Unpacker {
    /// Most plain bytes that one piece of a body may make.
    const PIECE_BYTES_MAX: usize = 16 << 20;
    const BROTLI_BUFFER_BYTES: usize = 16 << 10;

    /// `None` for an encoding that is not known, or several.
    pub(super) fn new(encoding: &str) -> Option<Self> {
        let sink = Sink::default();
        Some(Self(match encoding.trim().to_ascii_lowercase().as_str() {
            "br" => {
                Decoder::Brotli(Box::new(brotli::DecompressorWriter::new(sink, Self::BROTLI_BUFFER_BYTES)))
            }
            "deflate" => Decoder::Deflate(flate2::write::ZlibDecoder::new(sink)),
            "gzip" | "x-gzip" => Decoder::Gzip(flate2::write::MultiGzDecoder::new(sink)),
            "zstd" => Decoder::Zstd(Box::new(zstd::stream::write::Decoder::new(sink).ok()?)),
            _ => return None,
        }))
    }

    /// Everything that can be told by now of what the body says; more than the agent can know of it.
    ///
    /// # Errors
    /// [`Damaged`]; from then on nothing can be told.
    pub(super) fn feed(&mut self, packed: &[u8]) -> Result<Bytes, Damaged> {
        let (written, sink) = match &mut self.0 {
            Decoder::Brotli(decoder) => (write(decoder.as_mut(), packed), decoder.get_mut()),
            Decoder::Deflate(decoder) => (write(decoder, packed), decoder.get_mut()),
            Decoder::Gzip(decoder) => (write(decoder, packed), decoder.get_mut()),
            Decoder::Zstd(decoder) => (write(decoder.as_mut(), packed), decoder.get_mut()),
        };
        written.map_err(|_| Damaged)?;
        Ok(std::mem::take(&mut sink.0).into())
    }
}

fn write(decoder: &mut impl Write, packed: &[u8]) -> io::Result<()> {
    decoder.write_all(packed)?;
    decoder.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn packed(encoding: &str, plain: &[u8]) -> Vec<u8> {
        match encoding {
            "br" => {
                let mut packed = Vec::new();
                brotli::CompressorWriter::new(&mut packed, 4096, 5, 20).write_all(plain).unwrap();
                packed
            }
            "deflate" => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            "gzip" => gzip(plain),
            _ => zstd::encode_all(plain, 3).unwrap(),
        }
    }

    #[test]
    fn every_encoding_is_followed_byte_by_byte() {
        let plain = b"data: one\n\ndata: two\n\n".repeat(500);
        for encoding in ["br", "deflate", "gzip", "zstd"] {
            let packed = packed(encoding, &plain);
            let mut unpacker = Unpacker::new(encoding).unwrap();
            let seen: Vec<u8> =
                packed.iter().flat_map(|byte| unpacker.feed(&[*byte]).unwrap().to_vec()).collect();
            assert!(seen == plain, "{encoding}: {} bytes of {}", seen.len(), plain.len());
        }
        assert!(Unpacker::new("compress").is_none());
        assert!(Unpacker::new("gzip, br").is_none());
    }

    #[test]
    fn what_does_not_decode_and_what_explodes_is_damaged() {
        for encoding in ["br", "deflate", "gzip", "zstd"] {
            let mut unpacker = Unpacker::new(encoding).unwrap();
            assert_eq!(unpacker.feed(&[0xff; 64]), Err(Damaged), "{encoding}");
        }
        let bomb = gzip(&vec![b' '; Unpacker::PIECE_BYTES_MAX + 1]);
        assert_eq!(Unpacker::new("gzip").unwrap().feed(&bomb), Err(Damaged));
    }
}
