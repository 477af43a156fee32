// Every native op's schema, and the Python module.
//
// Ops named *_forward, *_backward and those of attacks are what a device implements (csrc/cpu, csrc/cuda); the others are
// what users call: their autograd functions and Meta kernels are in csrc/autograd, the same for every device.
#include <Python.h>

#include <torch/library.h>

#include "include/cuda_loss_plan.h"
#include "include/isa.h"

// Targets: `first` (B,) int64 with optional `second`, or `dense` (B, K). λ and smoothing are tensors (0-d; λ also (B,)),
// or where those are None the numbers after them. reduction: 0 none, 1 mean, 2 sum. A row's loss has z_loss · lse² added.
#define TARGET                                                                                                    \
  "Tensor? first, Tensor? second, Tensor? lam, float lam_value, Tensor? dense, Tensor? smoothing, "        \
  "float smoothing_value, Tensor? class_weight, Tensor? sample_weight, int ignore_index, int reduction, bool index_target, " \
  "float z_loss"

TORCH_LIBRARY(regfast, m) {
  // backward: 0 auto, 1 store, 2 recompute
  m.def("soft_cross_entropy(Tensor logits, " TARGET ", bool inplace, int backward) -> Tensor");
  // `grad` is empty unless `gradient`; times 1/denominator and sample weights, as for grad_output = 1.
  m.def("soft_cross_entropy_forward(Tensor logits, " TARGET ", bool gradient) -> (Tensor loss, Tensor grad)");
  m.def("soft_cross_entropy_backward(Tensor grad_output, Tensor logits, " TARGET ") -> Tensor");
  // The gradient replaces the logits.
  m.def("soft_cross_entropy_inplace(Tensor(a!) logits, " TARGET ") -> Tensor");
  // On a GPU, where nobody waits to see whether grad_output (0-d) is 1. `grad` was made for 1; it becomes that for
  // grad_output: rescale_ multiplies, remake_ makes it anew. was_scaled: whether the last one known was not 1.
  m.def("rescale_(Tensor(a!) grad, Tensor grad_output) -> Tensor(a!)");
  m.def("soft_cross_entropy_remake_(Tensor(a!) grad, Tensor grad_output, Tensor logits, " TARGET ") -> Tensor(a!)");
  m.def("was_scaled(Tensor logits) -> bool");

  // scalars (5, B): loss, log_partition, confidence, entropy, margin; they carry gradients. geometry (n, B): rms, cosine, cosine_predicted as far
  // as features and centers are given (n = 0, 1, 3). prediction and label (the true class, ignore_index if ignored): (B,).
  m.def("soft_cross_entropy_stats(Tensor logits, " TARGET ", Tensor? features, Tensor? centers, int backward, "
        "bool feature_grad) -> (Tensor loss, Tensor scalars, Tensor geometry, Tensor prediction)");
  m.def("soft_cross_entropy_stats_forward(Tensor logits, " TARGET ", Tensor? features, Tensor? centers, bool gradient) -> "
        "(Tensor loss, Tensor grad, Tensor scalars, Tensor geometry, Tensor prediction, Tensor label)");
  m.def("soft_cross_entropy_stats_backward(Tensor? grad_output, Tensor grad_scalars, Tensor logits, " TARGET ") -> Tensor");

  // (2 or 3, B): rms, cosine and, with predictions, cosine_predicted.
  m.def("feature_stats(Tensor features, Tensor centers, Tensor labels, Tensor? predictions, int ignore_index) -> Tensor");
  m.def("feature_stats_forward(Tensor features, Tensor centers, Tensor labels, Tensor? predictions, int ignore_index) -> "
        "Tensor");
  // Rows of grad_output that are not there count as zero, so that rms alone needs no centers.
  m.def("feature_stats_backward(Tensor grad_output, Tensor features, Tensor? centers, Tensor? labels, "
        "Tensor? predictions, int ignore_index) -> Tensor");

  // Gradients are empty where their bool is false; they are for grad_output = 1 (reduction 1 and 2), and float32 where
  // their inputs are float16, to be rounded when a loss scale has reached them.
  m.def("linear_soft_cross_entropy(Tensor features, Tensor linear_weight, Tensor? linear_bias, " TARGET ") -> Tensor");
  m.def("linear_soft_cross_entropy_forward(Tensor features, Tensor linear_weight, Tensor? linear_bias, " TARGET ", "
        "bool features_gradient, bool weight_gradient, bool bias_gradient) -> "
        "(Tensor loss, Tensor grad_features, Tensor grad_weight, Tensor grad_bias)");
  // The same for any grad_output (0-d or (B,)).
  m.def("linear_soft_cross_entropy_backward(Tensor grad_output, Tensor features, Tensor linear_weight, "
        "Tensor? linear_bias, " TARGET ", bool features_gradient, bool weight_gradient, bool bias_gradient) -> "
        "(Tensor grad_features, Tensor grad_weight, Tensor grad_bias)");

  m.def("objective(Tensor logits, Tensor labels, str kind, Tensor? targets) -> "
        "(Tensor loss, Tensor prediction, Tensor gradient)");

  // A sample's whole loop of steps; norm: linf or l2. Displacements (B, n) float64.
  m.def("feature_attack(Tensor logits, Tensor rows, Tensor labels, Tensor eps, Tensor step_size, int steps, bool linf, "
        "bool margin) -> Tensor");

  // Per-sample values as for λ above. norm: 0 linf, 1 l2, 2 l1.
  m.def("perturb_step(Tensor point, Tensor gradient, Tensor clean, Tensor? eps, float eps_value, Tensor? step, "
        "float step_value, int norm, Tensor? previous, Tensor? momentum, float momentum_value, Tensor? sparsity, "
        "float sparsity_value, float lower, float upper) -> Tensor");
  m.def("l1_box_projection(Tensor clean, Tensor delta, Tensor? eps, float eps_value, float lower, float upper) -> Tensor");
  // FAB's move.
  m.def("boundary_step(Tensor point, Tensor image, Tensor rise, Tensor slope, Tensor across, Tensor? eta, float eta_value, "
        "float alpha_max, float beta, int norm) -> Tensor");
  // seed: the 64 bits of the unsigned seed.
  m.def("random_start(Tensor clean, Tensor? eps, float eps_value, int norm, int seed, Tensor sample, int stage, "
        "Tensor restart, Tensor step, bool sphere, float lower, float upper) -> Tensor");
  m.def("philox_uniform(int seed, Tensor sample, int stage, Tensor restart, Tensor step, SymInt count) -> Tensor");
  m.def("philox_normal(int seed, Tensor sample, int stage, Tensor restart, Tensor step, SymInt count) -> Tensor");
}

#ifndef REGFAST_CUDA_ARCHS
#define REGFAST_CUDA_ARCHS ""
#endif

namespace regfast {
PyObject* loss_of_labels(PyObject*, PyObject* const*, Py_ssize_t);  // csrc/autograd/loss_of_labels.cpp
}

namespace {

PyObject* build_facts(PyObject*, PyObject*) {
  return Py_BuildValue("{s:s, s:s, s:s, s:s, s:s}", "compiler", REGFAST_COMPILER, "isa", regfast::isa_variants(),
                       "isa_active", regfast::isa_active(), "torch", REGFAST_TORCH, "cuda_archs", REGFAST_CUDA_ARCHS);
}

PyObject* loss_plan(PyObject*, PyObject* arguments) {
  regfast::cuda::Device device{};
  long long batch = 0;
  int clusters = 0, columns = 0, logit_bytes = 0, dense_bytes = 0;
  if (!PyArg_ParseTuple(arguments, "iipLiii", &device.processors, &device.shared_memory, &clusters, &batch, &columns,
                        &logit_bytes, &dense_bytes)) {
    return nullptr;
  }
  device.clusters = clusters != 0;
  const auto plan = regfast::cuda::plan_loss(device, batch, columns, logit_bytes, dense_bytes);
  return Py_BuildValue("{s:i, s:i, s:i, s:i, s:i, s:O, s:i, s:i}", "group", plan.group, "team_size", plan.team_size,
                       "slice_columns", plan.slice_columns, "threads", plan.threads, "shared_bytes", plan.shared_bytes,
                       "resident", plan.resident ? Py_True : Py_False, "fit", plan.fit, "blocks", plan.blocks);
}

PyMethodDef methods[] = {
    {"build_facts", build_facts, METH_NOARGS, "Compiler, ISA variants (and the one in use), torch and CUDA archs of this build."},
    {"loss_of_labels", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(regfast::loss_of_labels)), METH_FASTCALL,
     "soft_cross_entropy of (logits, labels, smoothing, ignore_index, reduction, inplace, backward); None where these are "
     "not plain tensors (B, K) and (B,) of one device, int64 labels, and numbers and words in their range."},
    {"loss_plan", loss_plan, METH_VARARGS,
     "How CUDA C++ shares out the rows of a loss (csrc/include/cuda_loss_plan.h): of (processors, shared memory of a block, "
     "whether there are clusters, rows, classes, bytes a logit, bytes an entry of a dense target)."},
    {nullptr, nullptr, 0, nullptr}};
PyModuleDef module{PyModuleDef_HEAD_INIT, "_native", "The native extension: importing it registers torch.ops.regfast.*", -1,
                   methods};

}  // namespace

PyMODINIT_FUNC PyInit__native() { return PyModule_Create(&module); }
