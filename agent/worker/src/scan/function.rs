//! The scan and its convolution as nodes of libtorch's graph.

use anyhow::Context as _;
use tch::Tensor;

use super::{Conv, Gradients, Pass, cpu, cuda, plain};
use crate::torch::{Function, GradMode, Saved, attach, weightless};

/// Who runs the kernels.
#[allow(clippy::large_enum_variant, reason = "there is one per scan, and it lives as long as the scan")]
pub(super) enum Kernels {
    Cpu,
    Gpu(cuda::Kernels),
}

/// What a scan keeps, by the names in messages: the tensors of a pass, in the order of [`Pass::of`].
const OF_PASS: [&str; Pass::TENSORS] =
    ["a scan's x", "a scan's delta", "a scan's a", "a scan's b", "a scan's c", "a scan's d", "a scan's bias"];

/// A scan with its tensors: those of each pass, then the gate.
pub(super) struct OwnScan {
    pub(super) tensors: Vec<Tensor>,
    pub(super) reverse: Vec<bool>,
    pub(super) scale: f64,
}

impl OwnScan {
    fn passes(&self) -> Vec<Pass<'_>> {
        self.tensors.chunks_exact(Pass::TENSORS).zip(&self.reverse).map(|(t, reverse)| Pass::of(t, *reverse)).collect()
    }

    fn gate(&self) -> Option<&Tensor> {
        self.tensors.get(Pass::TENSORS * self.reverse.len())
    }

    /// By libtorch's own operators.
    pub(super) fn plain(self) -> Tensor {
        plain::selective_scan(&self.passes(), self.gate(), self.scale)
    }

    /// By the kernels, recorded as one node; zeros without `values`.
    pub(super) fn run(self, kernels: Kernels, values: bool) -> Tensor {
        let y = {
            let _off = GradMode::off();
            match &kernels {
                _ if !values => weightless(&self.tensors[0].size(), &self.tensors[0]),
                Kernels::Cpu => cpu::forward(&self.passes(), self.gate(), self.scale),
                Kernels::Gpu(gpu) => match gpu.forward(&self.passes(), self.gate(), self.scale) {
                    Ok(y) => y,
                    Err(error) => panic!("{error:#}"),
                },
            }
        };
        let names = OF_PASS.iter().cycle().take(Pass::TENSORS * self.reverse.len()).chain(&["a scan's gate"]);
        let saved = self.tensors.iter().zip(names).map(|(tensor, what)| Saved::new(what, tensor)).collect();
        let recorded = RecordedScan { tensors: saved, reverse: self.reverse, scale: self.scale, kernels };
        match attach(vec![y], &self.tensors.iter().collect::<Vec<_>>(), recorded) {
            Ok(mut outputs) => outputs.swap_remove(0),
            Err(error) => panic!("{error}"),
        }
    }
}

struct RecordedScan {
    tensors: Vec<Saved>,
    reverse: Vec<bool>,
    scale: f64,
    kernels: Kernels,
}

impl RecordedScan {
    fn gradients(&self, dy: &Tensor) -> anyhow::Result<Gradients> {
        let tensors = self.tensors.iter().map(|t| t.get().map(Tensor::shallow_clone)).collect::<Result<_, _>>()?;
        let scan = OwnScan { tensors, reverse: self.reverse.clone(), scale: self.scale };
        let (passes, gate, scale) = (scan.passes(), scan.gate(), scan.scale);
        match &self.kernels {
            Kernels::Cpu => Ok(cpu::backward(&passes, gate, scale, dy)),
            Kernels::Gpu(gpu) => gpu.backward(&passes, gate, scale, dy),
        }
    }
}

impl Function for RecordedScan {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, _needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let dy = grads.into_iter().next().flatten().context("a scan's output influences the loss")?;
        let found = self.gradients(&dy.contiguous())?;
        let of_passes = found.passes.into_iter().flat_map(|g| [g.x, g.delta, g.a, g.b, g.c, g.d, g.bias]);
        Ok(of_passes.chain(found.gate).map(Some).collect())
    }
}

/// Convolutions of one input.
pub(super) struct OwnConvs {
    x: Tensor,
    convs: Vec<OwnConv>,
}

struct OwnConv {
    weight: Tensor,
    bias: Option<Tensor>,
    left: i64,
    reverse: bool,
}

impl OwnConv {
    fn borrowed(&self) -> Conv<'_> {
        Conv { weight: &self.weight, bias: self.bias.as_ref(), left: self.left, reverse: self.reverse }
    }
}

impl OwnConvs {
    pub(super) fn new(x: &Tensor, convs: &[Conv<'_>]) -> Self {
        let kind = x.kind();
        let convs = convs.iter().map(|c| OwnConv {
            weight: c.weight.to_kind(kind).contiguous(),
            bias: c.bias.map(|bias| bias.to_kind(kind).contiguous()),
            left: c.left,
            reverse: c.reverse,
        });
        Self { x: x.shallow_clone(), convs: convs.collect() }
    }

    /// By the kernels, recorded as one node.
    pub(super) fn run(self) -> Vec<Tensor> {
        let y = {
            let _off = GradMode::off();
            cpu::conv_forward(&self.x, &self.convs.iter().map(OwnConv::borrowed).collect::<Vec<_>>())
        };
        let convs = self.convs.iter().map(|c| RecordedConv {
            weight: Saved::new("a convolution's weight", &c.weight),
            bias: c.bias.as_ref().map(|bias| Saved::new("a convolution's bias", bias)),
            left: c.left,
            reverse: c.reverse,
        });
        let recorded = RecordedConvs { x: Saved::new("a convolution's input", &self.x), convs: convs.collect() };
        let of_convs = self.convs.iter().flat_map(|c| std::iter::once(&c.weight).chain(&c.bias));
        let inputs: Vec<&Tensor> = std::iter::once(&self.x).chain(of_convs).collect();
        match attach(y, &inputs, recorded) {
            Ok(outputs) => outputs,
            Err(error) => panic!("{error}"),
        }
    }
}

struct RecordedConvs {
    x: Saved,
    convs: Vec<RecordedConv>,
}

struct RecordedConv {
    weight: Saved,
    bias: Option<Saved>,
    left: i64,
    reverse: bool,
}

impl RecordedConv {
    fn borrowed(&self) -> anyhow::Result<Conv<'_>> {
        let bias = self.bias.as_ref().map(Saved::get).transpose()?;
        Ok(Conv { weight: self.weight.get()?, bias, left: self.left, reverse: self.reverse })
    }
}

impl Function for RecordedConvs {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, _needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let x = self.x.get()?;
        let zeros = || Tensor::zeros(x.size(), (x.kind(), x.device()));
        let dy: Vec<Tensor> = grads.into_iter().map(|g| g.map_or_else(zeros, |g| g.contiguous())).collect();
        let convs = self.convs.iter().map(RecordedConv::borrowed).collect::<Result<Vec<_>, _>>()?;
        let found = cpu::conv_backward(x, &convs, &dy);
        let mut answer = vec![Some(found.x)];
        for (conv, (weight, bias)) in convs.iter().zip(found.convs) {
            answer.push(Some(weight));
            answer.extend(conv.bias.is_some().then_some(Some(bias)));
        }
        Ok(answer)
    }
}
