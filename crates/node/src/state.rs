//! The state of a model after a text, as JavaScript keeps it.

use std::sync::Arc;

use napi::bindgen_prelude::Buffer;
use napi_derive::napi;
use rwkv_core::State;

use crate::failure::{Failure, Thrown};
use crate::model::NativeModel;

/// A state that does not change.
#[napi]
pub struct NativeState(pub(crate) Arc<State>);

#[napi]
impl NativeState {
    /// Reads the byte form of a state of `model`.
    #[napi(factory)]
    pub fn from(model: &NativeModel, bytes: &[u8], allow_other_base: Option<bool>) -> Result<Self, Thrown> {
        let allow = allow_other_base.unwrap_or(false);
        let state = model.handle.get()?.state_from_bytes_with(bytes, allow).map_err(Failure::from)?;
        Ok(Self(Arc::new(state)))
    }

    /// The byte form.
    #[napi]
    pub fn to_buffer(&self) -> Result<Buffer, Thrown> {
        Ok(self.0.to_bytes().map_err(Failure::from)?.into())
    }

    /// Whether both are of the same model and hold the same.
    #[napi]
    pub fn equals(&self, other: &NativeState) -> bool {
        self.0 == other.0
    }
}
