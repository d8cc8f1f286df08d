//! The scan and its convolution as nodes of libtorch's graph.

use anyhow::Context as _;
use tch::Tensor;

use super::{Conv, Gradients, Pass, cpu, cuda, plain};
use crate::torch::{Function, GradMode, attach, weightless};

/// Who runs the kernels.
#[allow(clippy::large_enum_variant, reason = "there is one per scan, and it lives as long as the scan")]
pub(super) enum Kernels {
    Cpu,
    Gpu(cuda::Kernels),
}

/// A scan with its tensors: those of each pass, then the gate.
pub(super) struct SavedScan {
    pub(super) tensors: Vec<Tensor>,
    pub(super) reverse: Vec<bool>,
    pub(super) scale: f64,
}

impl SavedScan {
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
        let inputs: Vec<Tensor> = self.tensors.iter().map(Tensor::shallow_clone).collect();
        let scan = Self { tensors: self.tensors.iter().map(Tensor::detach).collect(), ..self };
        match attach(vec![y], &inputs.iter().collect::<Vec<_>>(), Recorded { scan, kernels }) {
            Ok(mut outputs) => outputs.swap_remove(0),
            Err(error) => panic!("{error}"),
        }
    }
}

struct Recorded {
    scan: SavedScan,
    kernels: Kernels,
}

impl Recorded {
    fn gradients(&self, dy: &Tensor) -> anyhow::Result<Gradients> {
        let (passes, gate, scale) = (self.scan.passes(), self.scan.gate(), self.scan.scale);
        match &self.kernels {
            Kernels::Cpu => Ok(cpu::backward(&passes, gate, scale, dy)),
            Kernels::Gpu(gpu) => gpu.backward(&passes, gate, scale, dy),
        }
    }
}

impl Function for Recorded {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, _needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let dy = grads.into_iter().next().flatten().context("a scan's output influences the loss")?;
        let found = self.gradients(&dy.contiguous())?;
        let of_passes = found.passes.into_iter().flat_map(|g| [g.x, g.delta, g.a, g.b, g.c, g.d, g.bias]);
        Ok(of_passes.chain(found.gate).map(Some).collect())
    }
}

/// Convolutions of one input.
pub(super) struct SavedConvs {
    x: Tensor,
    convs: Vec<SavedConv>,
}

struct SavedConv {
    weight: Tensor,
    bias: Option<Tensor>,
    left: i64,
    reverse: bool,
}

impl SavedConv {
    fn borrowed(&self) -> Conv<'_> {
        Conv { weight: &self.weight, bias: self.bias.as_ref(), left: self.left, reverse: self.reverse }
    }
}

impl SavedConvs {
    pub(super) fn new(x: &Tensor, convs: &[Conv<'_>]) -> Self {
        let kind = x.kind();
        let convs = convs.iter().map(|c| SavedConv {
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
            cpu::conv_forward(&self.x, &self.convs.iter().map(SavedConv::borrowed).collect::<Vec<_>>())
        };
        let convs = self.convs.iter().map(|c| SavedConv {
            weight: c.weight.detach(),
            bias: c.bias.as_ref().map(Tensor::detach),
            left: c.left,
            reverse: c.reverse,
        });
        let saved = Self { x: self.x.detach(), convs: convs.collect() };
        let of_convs = self.convs.iter().flat_map(|c| std::iter::once(&c.weight).chain(&c.bias));
        let inputs: Vec<&Tensor> = std::iter::once(&self.x).chain(of_convs).collect();
        match attach(y, &inputs, saved) {
            Ok(outputs) => outputs,
            Err(error) => panic!("{error}"),
        }
    }
}

impl Function for SavedConvs {
    fn backward(&mut self, grads: Vec<Option<Tensor>>, _needed: &[bool]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let zeros = || Tensor::zeros(self.x.size(), (self.x.kind(), self.x.device()));
        let dy: Vec<Tensor> = grads.into_iter().map(|g| g.map_or_else(zeros, |g| g.contiguous())).collect();
        let convs: Vec<Conv<'_>> = self.convs.iter().map(SavedConv::borrowed).collect();
        let found = cpu::conv_backward(&self.x, &convs, &dy);
        let mut answer = vec![Some(found.x)];
        for (conv, (weight, bias)) in self.convs.iter().zip(found.convs) {
            answer.push(Some(weight));
            answer.extend(conv.bias.is_some().then_some(Some(bias)));
        }
        Ok(answer)
    }
}
