//! Kind `quantization`: codes, scales and what they mean.

use serde_json::Value;
use tch::{Kind, Tensor};

use super::VerifyError;
use super::compare::{Checks, Tolerance};
use super::folder::Folder;
use crate::quant::{DYNAMIC_CODES, NF4_CODES, Nf4, Packing, Scales};

/// Codes of scales less their mean: the mean may differ in its last bit, and then the scales do by that.
const SCALES: Tolerance = Tolerance::Relative(1e-6, 0.0);

pub(super) fn run(folder: &Folder, checks: &mut Checks) -> Result<(), VerifyError> {
    if folder.text("quant_type")? != "nf4" {
        let found = folder.text("quant_type")?;
        return Err(VerifyError::Unsupported(format!("the quantisation \"{found}\" is not there; expected nf4")));
    }
    for (name, codes) in [("nf4_code", &NF4_CODES[..]), ("dynamic_code", &DYNAMIC_CODES[..])] {
        if folder.has(name) {
            checks.tensors(name, &Tensor::from_slice(codes), &folder.io(name)?, Tolerance::Equal);
        }
    }
    let cases = folder.config["cases"].as_array().map(Vec::as_slice).unwrap_or_default();
    for case in cases {
        one(folder, case, checks)?;
    }
    Ok(())
}

fn one(folder: &Folder, case: &Value, checks: &mut Checks) -> anyhow::Result<()> {
    let name = case["name"].as_str().ok_or_else(|| anyhow::anyhow!("a case without a name: {case}"))?;
    let io = |part: &str| folder.io(&format!("{name}.{part}"));
    let packing = Packing {
        block: case["blocksize"].as_i64().unwrap_or(64),
        double: case["nested"].as_bool().unwrap_or_default(),
    };
    let input = io("input")?;
    let packed = Nf4::quantize(&input, packing);
    checks.tensors(format!("{name}.packed"), packed.codes(), &io("packed")?.view([-1]), Tolerance::Equal);
    match packed.scales() {
        Scales::Plain(absmax) => {
            checks.tensors(format!("{name}.absmax"), absmax, &io("absmax")?, Tolerance::Equal);
        }
        Scales::Double { codes, absmax, offset } => {
            // Where the means agree, so must the codes; where they do not, a code may be a neighbour.
            let reference = io("offset")?;
            let close = if offset.equal(&reference) { Tolerance::Equal } else { Tolerance::Absolute(1.0) };
            checks.tensors(format!("{name}.absmax_u8"), codes, &io("absmax_u8")?, close);
            checks.tensors(format!("{name}.nested_absmax"), absmax, &io("nested_absmax")?, SCALES);
            checks.tensors(format!("{name}.offset"), offset, &reference, SCALES);
        }
    }
    let reference = io("dequant")?;
    let ours = packed.dequantize(Kind::Float).to_kind(input.kind());
    checks.tensors(format!("{name}.dequant"), &ours, &reference, Tolerance::Relative(1e-5, 0.0));
    Ok(())
}
