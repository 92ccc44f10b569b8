package kernels

// The parameters of each operation are laid out as the struct of the same name in tunefleet.h, which says what they mean; a test
// compares sizes and offsets. A Queue has one method an operation; it returns nothing, since the first error sticks to the queue
// (see Queue.Err).

// Activation names an elementwise function.
type Activation int32

// The activations; GELUTanh is also HF's gelu_new and gelu_pytorch_tanh, ReLU2 is relu squared.
const (
	SiLU     Activation = 1
	GELUTanh Activation = 2
	GELUErf  Activation = 3
	ReLU     Activation = 4
	ReLU2    Activation = 5
	Tanh     Activation = 6
)

// RandomKind names a distribution.
type RandomKind int32

// Uniform is over [A, B); Normal has mean A and deviation B.
const (
	Uniform RandomKind = 1
	Normal  RandomKind = 2
)

// GatherRows computes: Y[i] = Scale * X[IDs[i]], the embedding's forward. X [v,d], IDs i32 [n] contiguous of any rank, Y [n,d].
type GatherRows struct {
	X, IDs, Y Tensor
	Scale     float32
	_         int32
}

// ScatterAddRows computes: Y[IDs[i]] += Scale * X[i] in the order of i, the embedding's backward. Accumulate false clears Y first. Negative ids
// are skipped.
type ScatterAddRows struct {
	X, IDs, Y  Tensor
	Scale      float32
	Accumulate Bool
}

// Bool is a C flag: 0 or 1.
type Bool int32

// Flag is b as a Bool.
func Flag(b bool) Bool {
	if b {
		return 1
	}
	return 0
}

// Copy computes: Y = X converted to Y's type, any strides.
type Copy struct{ X, Y Tensor }

// Fill computes: every element of Y = Value.
type Fill struct {
	Y     Tensor
	Value float64
}

// ColSum computes: Y[n] (+)= the sum over rows of X [m,n]: a bias gradient.
type ColSum struct {
	X, Y       Tensor
	Accumulate Bool
	_          int32
}

// RowTopK computes: the K greatest of each row of X [r,n], greatest first, equal ones by lower index. Values f32 [r,k] is optional, IDs i32 [r,k].
type RowTopK struct {
	X, Values, IDs Tensor
	K              int64
}

// Add computes: Y = Alpha*A + Beta*B (+ Y when Accumulate); B optional; AlphaDev (f32) multiplies Alpha. Y may be A or B.
type Add struct {
	A, B, Y     Tensor
	Alpha, Beta float32
	AlphaDev    Addr
	Accumulate  Bool
	_           int32
}

// Mul computes: Y = A * B (+ Y when Accumulate); B has A's dimensions or is one row for all.
type Mul struct {
	A, B, Y    Tensor
	Accumulate Bool
	_          int32
}

// ActFwd computes: Y = Act(X).
type ActFwd struct {
	X, Y Tensor
	Act  Activation
	_    int32
}

// ActBwd computes: DX (+)= Act'(X) * DY.
type ActBwd struct {
	X, DY, DX  Tensor
	Act        Activation
	Accumulate Bool
}

// GLUFwd computes: Y = Act(Gate) * Up.
type GLUFwd struct {
	Gate, Up, Y Tensor
	Act         Activation
	_           int32
}

// GLUBwd computes: DGate = Act'(Gate)*Up*DY, DUp = Act(Gate)*DY. DGate may be Gate and DUp may be Up.
type GLUBwd struct {
	Gate, Up, DY, DGate, DUp       Tensor
	Act                            Activation
	DGateAccumulate, DUpAccumulate Bool
	_                              int32
}

// Dropout computes: Y = X/(1-P) with probability 1-P, else 0; the same call on the gradient is the backward. RowIDs i64 [rows] is optional.
type Dropout struct {
	X, RowIDs, Y Tensor
	Seed, Stream uint64
	P            float32
	Accumulate   Bool
}

// Random fills Y (contiguous) from Philox; Offset (a multiple of 4) is the index of its first element in the whole tensor.
type Random struct {
	Y                    Tensor
	Seed, Stream, Offset uint64
	A, B                 float32
	Kind                 RandomKind
	_                    int32
}

// RMSNormFwd computes: S = X + Res (Res optional; stored in Sum), Y = S * RStd * (W + WOffset), W optional. RStd f32 [rows].
type RMSNormFwd struct {
	X, Res, Sum, W, Y, RStd Tensor
	Eps, WOffset            float32
}

// RMSNormBwd computes: X is S of the forward. DX = DSum (optional) + the norm's gradient. DX may be DY or DSum.
type RMSNormBwd struct {
	X, W, RStd, DY, DSum, DX, DW Tensor
	WOffset                      float32
	DXAccumulate, DWAccumulate   Bool
	_                            int32
}

// LayerNormFwd computes: Y = (S - Mean) * RStd * (W + WOffset) + B; W and B optional.
type LayerNormFwd struct {
	X, Res, Sum, W, B, Y, Mean, RStd Tensor
	Eps, WOffset                     float32
}

// LayerNormBwd is the backward of LayerNormFwd.
type LayerNormBwd struct {
	X, W, Mean, RStd, DY, DSum, DX, DW, DB   Tensor
	WOffset                                  float32
	DXAccumulate, DWAccumulate, DBAccumulate Bool
}

// Gemm computes: C [m,n] = (Accumulate ? C : 0) + Bias[n] + (Alpha*A [m,k]) B [k,n]. A transposed operand is a view (Tensor.T); rank 3 is a
// batch. A linear layer: forward A = x, B = w.T(); input gradient A = dy, B = w; weight gradient A = dy.T(), B = x.
type Gemm struct {
	A, B, C, Bias Tensor
	Alpha         float32
	Accumulate    Bool
}

// Rope rotates the first RotDim elements of each head of X [b,t,h,d]. Cos, Sin f32 [positions, RotDim/2]; Pos i32 [b,t] optional
// (default Pos0 + t). Inverse is the backward. Y may be X.
type Rope struct {
	X, Pos, Cos, Sin, Y              Tensor
	RotDim                           int32
	Interleaved, Inverse, Accumulate Bool
	Pos0                             int64
}

// AttnFwd computes: Q [b,tq,hq,dk], K [b,tk,hk,dk], V [b,tk,hk,dv], O [b,tq,hq,dv] with any strides but the last (1); LSE f32 [b,hq,tq].
// Query i of sequence b has position p = QStart[b]+i (or QStart0+i) among the keys: Causal: keys <= p; WindowLeft >= 0: keys >=
// p-WindowLeft (HF's sliding_window w is WindowLeft w-1); WindowRight likewise; -1 is no limit. KVFirst, KVLast i32 [b] bound the keys,
// KeyMask u8 [b,tk] hides some, CuSeqlens i32 [docs+1] separates documents packed in one sequence (b = 1, tq = tk).
// Bias f32 [b,hq,tk] (last stride 1) is added to the scores of each key, less that of key p: ALiBi; it has no gradient. All optional.
// Dropout, in [0, 1), drops probabilities by (Seed, Stream), the query's id (RowIDs i64 [b,tq], default its number), the head and the key.
type AttnFwd struct {
	Q, K, V, O, LSE, QStart, KVFirst, KVLast, KeyMask, CuSeqlens, Bias, Sinks, RowIDs Tensor
	QStart0                                                                           int64
	Seed, Stream                                                                      uint64
	Scale, Softcap                                                                    float32
	Causal                                                                            Bool
	WindowLeft, WindowRight                                                           int32
	Dropout                                                                           float32
}

// AttnBwd is the backward; AttnFwd as it was called.
type AttnBwd struct {
	AttnFwd
	DO, DQ, DK, DV, DSinks                                     Tensor
	DQAccumulate, DKAccumulate, DVAccumulate, DSinksAccumulate Bool
}

// LinearLogprobFwd computes: LogP[i] = log softmax(X W^T + Bias)[Targets[i]] without keeping logits. X [n,d], W [v,d], Targets i32 [n] (negative:
// ignored, LogP 0). LSE, Entropy, ZSum f32 [n] optional. LogitScale 0 means 1.
type LinearLogprobFwd struct {
	X, W, Bias, Targets, LogP, LSE, Entropy, ZSum Tensor
	LogitScale, Softcap                           float32
}

// LinearLogprobBwd computes: the gradients of sum DLogP[i]*LogP[i]; DX, DW, DBias optional.
type LinearLogprobBwd struct {
	X, W, Bias, Targets, LSE, DLogP, DX, DW, DBias Tensor
	LogitScale, Softcap                            float32
	DXAccumulate, DWAccumulate, DBiasAccumulate    Bool
	_                                              int32
}

// LinearXent computes: log-probabilities and, in the same pass, the gradients of LossScale * sum Weights[i] * -LogP[i] (plus label smoothing and
// z-loss). Weights f32 [n] optional (1); LossScaleDev (f32) multiplies LossScale. DX, DW, DBias optional. LogitScale 0 means 1.
type LinearXent struct {
	X, W, Bias, Targets, Weights, LogP, LSE, ZSum, DX, DW, DBias Tensor
	LogitScale, Softcap, LossScale, LabelSmoothing, ZLoss        float32
	DXAccumulate, DWAccumulate, DBiasAccumulate                  Bool
	LossScaleDev                                                 Addr
}

// AdamW updates a flat shard as torch.optim.AdamW does; G is multiplied by GradScale (0 means 1) and *ClipDev. LRDev multiplies LR,
// StepDev (i64) replaces Step, SkipDev (i32) not 0 leaves everything unchanged.
type AdamW struct {
	P, M, V, G                         Tensor
	LR, Beta1, Beta2, Eps, WeightDecay float64
	Step                               int64
	LRDev, ClipDev, StepDev, SkipDev   Addr
	GradScale                          float32
	_                                  int32
}

// Adam8Block is the number of elements that share a scale in AdamW8.
const Adam8Block = 256

// AdamW8 is AdamW with moments in 8 bits (https://arxiv.org/abs/2110.02861, as bitsandbytes computes it) on a flat shard: P, G f32 [n], MCodes,
// VCodes u8 [n], MScales, VScales f32 [ceil(n/256)], which are zeros before the first step. Scalars as in AdamW.
type AdamW8 struct {
	P, G, MCodes, VCodes, MScales, VScales Tensor
	LR, Beta1, Beta2, Eps, WeightDecay     float64
	Step                                   int64
	LRDev, ClipDev, StepDev, SkipDev       Addr
	GradScale                              float32
	_                                      int32
}

// Lion is https://arxiv.org/abs/2302.06675 as lion-pytorch computes it: P, M and G f32 [n], contiguous. Scalars as in AdamW.
type Lion struct {
	P, M, G                       Tensor
	LR, Beta1, Beta2, WeightDecay float64
	LRDev, ClipDev, SkipDev       Addr
	GradScale                     float32
	_                             int32
}

// SqSums computes: sums of squares of X f32 [b,n,m], contiguous, in float64: Rows [b*n] over the last dimension, Cols [b*m] over the middle one, each
// optional. An element is multiplied by Scale (0 means 1), squared, and Eps is added to the square.
type SqSums struct {
	X, Rows, Cols Tensor
	Scale, Eps    float32
}

// AdamMini is https://arxiv.org/abs/2406.16793 as adam-mini computes it: P, M and G f32 [n], contiguous, and V f32 with one second moment for each of
// its blocks of n/len(V) consecutive elements. Scalars as in AdamW.
type AdamMini struct {
	P, M, G, V                         Tensor
	LR, Beta1, Beta2, Eps, WeightDecay float64
	Step                               int64
	LRDev, ClipDev, StepDev, SkipDev   Addr
	GradScale                          float32
	_                                  int32
}

// Adafactor is https://arxiv.org/abs/1804.04235 as transformers computes it, on a whole tensor: P [b,n,m], G, Row [b*n] and Col [b*m], or V and no
// Row and Col for what is no matrix; M optional. G is undefined afterwards. LRDev multiplies LR, *ClipDev multiplies GradScale (0 means 1).
type Adafactor struct {
	P, G, Row, Col, V, M                                     Tensor
	LR, Beta1, Beta2, Eps1, Eps2, ClipThreshold, WeightDecay float64
	LRDev, ClipDev, SkipDev                                  Addr
	GradScale                                                float32
	ScaleParameter                                           Bool
}

// AdamDir computes: with g = X*Scale (0 means 1), M = Beta1 M + (1-Beta1) g, V = Beta2 V + (1-Beta2) g^2, Y = M/(sqrt(V)+Eps), all f32 [n]. Y may be X.
type AdamDir struct {
	X, M, V, Y        Tensor
	Beta1, Beta2, Eps float64
	Scale             float32
	_                 int32
}

// ScaleRows computes: Y [n,m] = R [n] * X [n,m], row by row, f32 and contiguous. Y may be X.
type ScaleRows struct{ X, R, Y Tensor }

// NormRatio computes: Y f32 [n] = sqrt(Num)/max(sqrt(Den)+Eps, Floor) of sums of squares f64 [n]; 1 instead of sqrt(Num) without Num. DType BF16
// rounds the root of Den to it (default F32).
type NormRatio struct {
	Num, Den, Y Tensor
	Eps, Floor  float32
	DType       DType
	_           int32
}

// NormLimit computes Fira's limit (https://arxiv.org/abs/2410.01623) on the growth of a norm: with norm = sqrt(SumSq), Y f32 [1] =
// 1/max(1, norm/(Last+Eps)/Growth), or 1 when Last f32 [1] is 0, and Last = norm*Y.
type NormLimit struct {
	SumSq, Last, Y Tensor
	Growth, Eps    float32
}

// Gram computes: Y f64 [n,n] = X X^T of X f32 [n,m], contiguous: inner products of long rows in float64, which keep what squares of f32 lose.
type Gram struct{ X, Y Tensor }

// SqNormChunk is the number of elements of a chunk of SqNorm.
const SqNormChunk = 4096

// SqNorm computes: Partials f64 [ceil(n/4096)] = the sum of squares of each chunk of X f32 [n], contiguous.
type SqNorm struct{ X, Partials Tensor }

// SumF64 computes: Total f64 [1] = (Accumulate ? Total : 0) + X[0] + X[1] + ... in order.
type SumF64 struct {
	X, Total   Tensor
	Accumulate Bool
	_          int32
}

// ClipFactor computes: Norm = InvScale*sqrt(SumSq) (InvScale 0 means 1), Clip = min(1, MaxNorm/(Norm+1e-6)) (1 when MaxNorm <= 0), Skip = Norm is
// not finite. SumSq f64 [1]; Norm, Clip f32 [1] and Skip i32 [1] are optional.
type ClipFactor struct {
	SumSq, Norm, Clip, Skip Tensor
	MaxNorm, InvScale       float32
}

// NonFinite computes: Flag i32 [1] = (Accumulate ? Flag : 0) | X f32 has an Inf or NaN.
type NonFinite struct {
	X, Flag    Tensor
	Accumulate Bool
	_          int32
}

// SliceAdd computes: Y [n] f32 = (Accumulate ? Y : 0) + X[0] + X[1] + ... in this order; X [s,n] f32 or bf16.
type SliceAdd struct {
	X, Y       Tensor
	Accumulate Bool
	_          int32
}

// ClampFwd computes: Y = min(max(X, Lo), Hi). Y may be X.
type ClampFwd struct {
	X, Y   Tensor
	Lo, Hi float32
}

// ClampBwd computes: DX (+)= DY where Lo <= X <= Hi, else 0. DX may be DY.
type ClampBwd struct {
	X, DY, DX  Tensor
	Lo, Hi     float32
	Accumulate Bool
	_          int32
}
