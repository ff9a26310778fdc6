//! How the model's types are stored inside a record: one number or byte string each. The numbers are
//! part of the format; none is ever given a second meaning.

use minicbor::encode::Write;
use minicbor::{Decoder, Encoder, decode as decoding, encode as encoding};

use crate::model::{
    AttemptId, AttemptReason, BodyHash, CallKind, Dialect, EffectClass, Epoch, FailureClass, Fingerprint,
    FoundBy, Resolution, RunNonce, StepIndex, StepState, Timestamp, UpstreamName, Usage,
};
use crate::wire::refusal::{Again, McpForm};

/// A type that `#[cbor(with = "via")]` can store.
pub(super) trait Via: Sized {
    fn put<W: Write>(&self, encoder: &mut Encoder<W>) -> Result<(), encoding::Error<W::Error>>;

    fn take(decoder: &mut Decoder<'_>) -> Result<Self, decoding::Error>;

    /// What a member that is not there means; `None`: it has to be there.
    fn absent() -> Option<Self> {
        None
    }
}

/// A member that may be left out. (The derived code asks through one or two references.)
pub(super) trait Absent {
    fn is_absent(&self) -> bool;
}

impl<T: Absent> Absent for &T {
    fn is_absent(&self) -> bool {
        (*self).is_absent()
    }
}

impl<T> Absent for Option<T> {
    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

pub(super) fn encode<Ctx, T: Via, W: Write>(
    value: &T,
    encoder: &mut Encoder<W>,
    _: &mut Ctx,
) -> Result<(), encoding::Error<W::Error>> {
    value.put(encoder)
}

pub(super) fn decode<'b, Ctx, T: Via>(decoder: &mut Decoder<'b>, _: &mut Ctx) -> Result<T, decoding::Error> {
    T::take(decoder)
}

pub(super) fn nil<T: Via>() -> Option<T> {
    T::absent()
}

pub(super) fn is_nil<T: Absent>(value: &T) -> bool {
    value.is_absent()
}

impl<T: Via> Via for Option<T> {
    fn put<W: Write>(&self, encoder: &mut Encoder<W>) -> Result<(), encoding::Error<W::Error>> {
        match self {
            Some(value) => value.put(encoder),
            None => encoder.null()?.ok(),
        }
    }

    fn take(decoder: &mut Decoder<'_>) -> Result<Self, decoding::Error> {
        if decoder.datatype()? == minicbor::data::Type::Null {
            decoder.null()?;
            return Ok(None);
        }
        T::take(decoder).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

/// `(String, Vec<u8>)` pairs: a flat array of name, value, name, value.
impl Via for Vec<(String, Vec<u8>)> {
    fn put<W: Write>(&self, encoder: &mut Encoder<W>) -> Result<(), encoding::Error<W::Error>> {
        encoder.array(self.len() as u64 * 2)?;
        for (name, value) in self {
            encoder.str(name)?.bytes(value)?;
        }
        Ok(())
    }

    fn take(decoder: &mut Decoder<'_>) -> Result<Self, decoding::Error> {
        let len = decoder.array()?.ok_or_else(|| decoding::Error::message("headers of no known number"))?;
        let mut pairs = Self::new();
        for _ in 0..len / 2 {
            pairs.push((decoder.str()?.to_owned(), decoder.bytes()?.to_vec()));
        }
        Ok(pairs)
    }
}

macro_rules! digest {
    ($($type:ident: $len:literal),+) => {$(
        impl Via for $type {
            fn put<W: Write>(&self, encoder: &mut Encoder<W>) -> Result<(), encoding::Error<W::Error>> {
                encoder.bytes(&self.0)?.ok()
            }

            fn take(decoder: &mut Decoder<'_>) -> Result<Self, decoding::Error> {
                let bytes = decoder.bytes()?;
                <[u8; $len]>::try_from(bytes)
                    .map(Self)
                    .map_err(|_| decoding::Error::message(concat!(stringify!($type), " of a wrong length")))
            }
        }
    )+};
}

digest!(Fingerprint: 32, BodyHash: 32, RunNonce: 16);

macro_rules! numbered {
    ($type:ident { $($variant:ident = $number:literal),+ $(,)? }) => {
        impl Via for $type {
            fn put<W: Write>(&self, encoder: &mut Encoder<W>) -> Result<(), encoding::Error<W::Error>> {
                let number: u8 = match self { $(Self::$variant => $number),+ };
                encoder.u8(number)?.ok()
            }

            fn take(decoder: &mut Decoder<'_>) -> Result<Self, decoding::Error> {
                match decoder.u8()? {
                    $($number => Ok(Self::$variant),)+
                    other => Err(decoding::Error::unknown_variant(i64::from(other)).with_message(stringify!($type))),
                }
            }
        }
    };
}

numbered!(AttemptReason { Explicit = 1, First = 2, Process = 3, Rewind = 4 });
numbered!(CallKind { Http = 1, Llm = 2, Mcp = 3 });
numbered!(Dialect { Anthropic = 1, Gemini = 2, Http = 3, Mcp = 4, Openai = 5 });
numbered!(EffectClass { Effect = 1, Idempotent = 2, Read = 3 });
numbered!(FailureClass { Cut = 1, Connect = 2, Reset = 3, Status = 4, Timeout = 5 });
numbered!(FoundBy { Exact = 1, Identity = 2, Normalised = 3 });
numbered!(Resolution { Abandoned = 1, Completed = 2, NotExecuted = 3, Repeat = 4 });
numbered!(StepState { Completed = 1, Failed = 2, InDoubt = 3, Open = 4, Refused = 5, Abandoned = 6 });

numbered!(Again { Harmful = 1, Pointless = 2, Useful = 3 });

/// 1 for an error, 2 for a result, or the code that the specification has.
impl Via for McpForm {
    fn put<W: Write>(&self, encoder: &mut Encoder<W>) -> Result<(), encoding::Error<W::Error>> {
        let number = match self {
            Self::Error => 1,
            Self::Result => 2,
            Self::Specified(code) => *code,
        };
        encoder.i32(number)?.ok()
    }

    fn take(decoder: &mut Decoder<'_>) -> Result<Self, decoding::Error> {
        match decoder.i32()? {
            1 => Ok(Self::Error),
            2 => Ok(Self::Result),
            code if code < 0 => Ok(Self::Specified(code)),
            other => Err(decoding::Error::unknown_variant(i64::from(other)).with_message("McpForm")),
        }
    }
}

impl Via for StepIndex {
    fn put<W: Write>(&self, encoder: &mut Encoder<W>) -> Result<(), encoding::Error<W::Error>> {
        encoder.u64(self.number())?.ok()
    }

    fn take(decoder: &mut Decoder<'_>) -> Result<Self, decoding::Error> {
        Self::new(decoder.u64()?).ok_or_else(|| decoding::Error::message("step 0"))
    }
}

impl Via for AttemptId {
    fn put<W: Write>(&self, encoder: &mut Encoder<W>) -> Result<(), encoding::Error<W::Error>> {
        encoder.u32(self.number())?.ok()
    }

    fn take(decoder: &mut Decoder<'_>) -> Result<Self, decoding::Error> {
        Self::new(decoder.u32()?).ok_or_else(|| decoding::Error::message("attempt 0"))
    }
}

impl Via for Epoch {
    fn put<W: Write>(&self, encoder: &mut Encoder<W>) -> Result<(), encoding::Error<W::Error>> {
        encoder.u64(self.0)?.ok()
    }

    fn take(decoder: &mut Decoder<'_>) -> Result<Self, decoding::Error> {
        decoder.u64().map(Self)
    }
}

impl Via for Timestamp {
    fn put<W: Write>(&self, encoder: &mut Encoder<W>) -> Result<(), encoding::Error<W::Error>> {
        encoder.i64(self.0)?.ok()
    }

    fn take(decoder: &mut Decoder<'_>) -> Result<Self, decoding::Error> {
        decoder.i64().map(Self)
    }
}

impl Via for UpstreamName {
    fn put<W: Write>(&self, encoder: &mut Encoder<W>) -> Result<(), encoding::Error<W::Error>> {
        encoder.str(self.as_str())?.ok()
    }

    fn take(decoder: &mut Decoder<'_>) -> Result<Self, decoding::Error> {
        Self::parse(decoder.str()?).map_err(|bad| decoding::Error::message(format!("upstream name: {bad}")))
    }
}

/// A map from 1 to 5 of what the provider reported.
impl Via for Usage {
    fn put<W: Write>(&self, encoder: &mut Encoder<W>) -> Result<(), encoding::Error<W::Error>> {
        let counts = [self.input, self.output, self.cache_read, self.cache_write, self.reasoning];
        encoder.map(counts.iter().flatten().count() as u64)?;
        for (key, count) in (1u8..).zip(counts) {
            if let Some(count) = count {
                encoder.u8(key)?.u64(count)?;
            }
        }
        Ok(())
    }

    fn take(decoder: &mut Decoder<'_>) -> Result<Self, decoding::Error> {
        let len = decoder.map()?.ok_or_else(|| decoding::Error::message("usage of no known length"))?;
        let mut usage = Self::default();
        for _ in 0..len {
            match decoder.u64()? {
                1 => usage.input = Some(decoder.u64()?),
                2 => usage.output = Some(decoder.u64()?),
                3 => usage.cache_read = Some(decoder.u64()?),
                4 => usage.cache_write = Some(decoder.u64()?),
                5 => usage.reasoning = Some(decoder.u64()?),
                _ => decoder.skip()?,
            }
        }
        Ok(usage)
    }
}
