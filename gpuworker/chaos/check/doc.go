// Package check judges a chaos run: from its history (what clients, proxies and the nemesis saw, one JSON object a line) and the final
// content of the object store alone, it says whether the invariants held. It is pure: the same input gives the same verdict, at any time.
//
// The judgement rests on writes of the object store as a proxy saw them. HEAD is a register that only conditional writes change, so its
// whole life can be put together again from ETags, also where an answer was lost: the ETag of a single PUT is the MD5 of its bytes.
package check
