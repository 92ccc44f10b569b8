package kernels

// RouteScore says how a router's logits become scores.
type RouteScore int32

// The scores: over all experts, each expert by itself, or over the chosen ones only.
const (
	RouteSoftmax     RouteScore = 1
	RouteSigmoid     RouteScore = 2
	RouteSoftmaxTopK RouteScore = 3
)

// GLUClampedFwd computes the gated unit of gpt-oss on X [n,2f]: g = min(gate, Limit), u = clamp(up, -Limit, Limit),
// Y [n,f] = (u+1) * g * sigmoid(Alpha*g). Interleaved: gate is the even columns.
type GLUClampedFwd struct {
	X, Y         Tensor
	Alpha, Limit float32
	Interleaved  Bool
	_            int32
}

// GLUClampedBwd is the backward of GLUClampedFwd. DX may be X.
type GLUClampedBwd struct {
	X, DY, DX               Tensor
	Alpha, Limit            float32
	Interleaved, Accumulate Bool
}

// MoERouteFwd chooses K of e experts for each token. Logits rows [n,e], Bias f32 [e] optional (added to scores for the choice only),
// Scores f32 [n,e], IDs i32 [n,K], Weights f32 [n,K]. With Groups > 1 the choice is limited to the TopKGroups groups whose GroupTop
// greatest choices have the greatest sum. Normalize divides the weights by max(sum+NormEps, NormMin); Scale multiplies them (0 means 1).
type MoERouteFwd struct {
	Logits, Bias, Scores, IDs, Weights Tensor
	K, Groups, TopKGroups, GroupTop    int64
	NormEps, NormMin, Scale            float32
	Score                              RouteScore
	Normalize                          Bool
	_                                  int32
}

// MoERouteBwd computes DLogits [n,e] from DWeights f32 [n,K] and DScores f32 [n,e], both optional.
type MoERouteBwd struct {
	Scores, IDs, DWeights, DScores, DLogits Tensor
	K                                       int64
	NormEps, NormMin, Scale                 float32
	Score                                   RouteScore
	Normalize, Accumulate                   Bool
}

// MoESort orders the slots (token*k + choice) of IDs i32 [n,k] by expert, stably: Order i32 [n*k], its inverse Place, Tokens = Order/k;
// expert i has the places Offsets[i] <= p < Offsets[i+1], Offsets i32 [Experts+1].
type MoESort struct {
	IDs, Offsets, Order, Place, Tokens Tensor
	Experts                            int64
}

// MoECombineFwd computes: Y[t] = (Accumulate ? Y[t] : 0) + sum over j of Weights[t,j] * X[Place[t,j]]. X [m,d], Y [n,d], Place i32 [n,K]
// optional (K 1, itself), Weights f32 [n,K] optional (1).
type MoECombineFwd struct {
	X, Place, Weights, Y Tensor
	K                    int64
	Accumulate           Bool
	_                    int32
}

// MoECombineBwd computes: DX[Place[t,j]] (+)= Weights[t,j]*DY[t] and DWeights[t,j] (+)= DY[t] . X[Place[t,j]]; each optional.
type MoECombineBwd struct {
	X, Place, Weights, DY, DX, DWeights Tensor
	K                                   int64
	DXAccumulate, DWeightsAccumulate    Bool
}

// GroupedGemm computes, for the rows Offsets[i] <= r < Offsets[i+1] of expert i: C[r] = (Accumulate ? C[r] : 0) + Bias[i] + Alpha*A[r] B[i].
// A [m,k], C [m,n], B [e,k,n], Bias [e,n] optional. Or B is the first matrix [k,n] and BAt i64 [e] each one's distance in elements.
type GroupedGemm struct {
	A, B, BAt, C, Bias, Offsets Tensor
	Alpha                       float32
	Accumulate                  Bool
}

// GroupedGemmDW computes C[i] (+)= Alpha * A_i^T B_i over the rows of expert i. A [m,p], B [m,n], C [e,p,n], or [p,n] with CAt i64 [e]
// where a negative element leaves an expert out.
type GroupedGemmDW struct {
	A, B, C, CAt, Offsets Tensor
	Alpha                 float32
	Accumulate            Bool
}

// GroupedColSum computes Y[i] (+)= the sum of the rows of expert i. X [m,n], Y [e,n], or [n] with YAt as CAt of GroupedGemmDW.
type GroupedColSum struct {
	X, Y, YAt, Offsets Tensor
	Accumulate         Bool
	_                  int32
}

// MoEAuxFwd computes the load-balancing statistics of a router's logits X [n,e]: Counts f64 [e] (how often an expert is among a row's K
// greatest) and Probs f64 [e] (the sum of softmax); Mask u8 [n] optional. Accumulate sums over layers.
type MoEAuxFwd struct {
	X, Mask, Counts, Probs Tensor
	K                      int64
	Accumulate             Bool
	_                      int32
}

// MoEAuxBwd computes DX [n,e], the gradient of Scale * sum Counts[i]*Probs[i] with constant counts.
type MoEAuxBwd struct {
	X, Mask, Counts, DX Tensor
	Scale               float64
	Accumulate          Bool
	_                   int32
}
