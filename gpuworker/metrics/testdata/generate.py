"""Makes reference scores of our own pairs with the Python libraries: generate.py SEED COUNT OUT_DIR [TEXT_FILE...].

Writes metrics/pairs.jsonl, metrics/corpus.json, metrics/sklearn.json, metrics/squad.json and metrics/jieba_cases.jsonl in the layout that
`tunefleet verify data` reads. Versions: jieba 0.42.1, rouge-chinese 1.0.3, rouge-score 0.1.2, sacrebleu 2.6.0, nltk 3.10.4,
scikit-learn 1.9.1, numpy 2.4.6. Texts are made from the word lists below, and from the lines of TEXT_FILEs when given.
"""
import collections, json, logging, os, random, re, string, sys

import jieba, numpy as np, sacrebleu
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_chinese import Rouge
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF, TER
from sklearn import metrics as sk

jieba.setLogLevel(60)
logging.getLogger("sacrebleu").setLevel(logging.ERROR)
seed, count, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = random.Random(seed)
EN = """the a an quick brown foxes jumped happily over lazy dogs relational conditional hopefulness electricity generalizations running flies
dying skies news proceeded controlling allowance replacement adjustment adoption activate angularity bowdlerize rate cease roll hopping falling
hissing fizzed failing filing agreed plastered bled motoring sing conflated troubled sized happy sky enjoyment radically differently vilely
analogously vietnamization predication operator feudalism decisiveness callousness formality sensitivity sensible triplicate formative analogies
oxygen yyyy syzygy toy by tree 3.14 1,000 $5.00 50% U.S. e-mail it's John's O'Neil's don't C++ v2.0 &amp; &quot;x&quot; &lt; <skipped> co-op""".split()
ZH = "我们 今天 天气 真的 很好 一起 去 公园 玩 吧 北京 清华大学 人工智能 模型 训练 数据 结果 不错 。 ， ！ ？ “ ” （ ） 《 》 、 … …… 龘 乒乓球 拍卖 完了 杭研 大厦 小明 硕士 毕业 于 中国科学院 计算所 ａｂｃ １２３".split()
ODD = ["İstanbul", "ΟΔΥΣΣΕΥΣ", "ǅ", "ß", "é", "e\u0301", "\u00a0", "\u2028", "\u3000", "\x1c", "\t", "\r\n", "\n", "\n\n", "😀", "👩\u200d👩", "ﬁ", "K", "²", "½", "①", "۳", "ー", "カタカナ", "ひらがな", "한국어", "\u200b", "……", "......", "！”", "?\"", "-\n", "\n-", "'s", "''"]
lines = []
for f in sys.argv[4:]:
    text = open(f, encoding="utf-8").read()
    lines += [s for s in re.findall(r'"((?:[^"\\]|\\.){5,300})"', text) if s.isprintable()]

def words():
    kind = rng.random()
    pool = EN if kind < .4 else ZH if kind < .7 else EN + ZH + ODD
    return [rng.choice(pool) for _ in range(rng.choice([0, 1, 2, 3, 5, 8, 13, 25, 60]))]

def noisy(w):
    w = list(w)
    for _ in range(rng.choice([0, 1, 2, 4, 8])):
        op = rng.random()
        if not w or op < .25: w.insert(rng.randint(0, len(w)), rng.choice(EN + ZH + ODD))
        elif op < .5: w.pop(rng.randrange(len(w)))
        elif op < .8 and len(w) > 3:
            a = rng.randrange(len(w)); b = min(len(w), a + rng.randint(1, 6)); part = w[a:b]; del w[a:b]; at = rng.randint(0, len(w)); w[at:at] = part
        else: w[rng.randrange(len(w))] = rng.choice(EN + ZH)
    return w

def pair():
    if lines and rng.random() < .4:
        r = json.loads('"' + rng.choice(lines) + '"')
        sep = " " if " " in r else ""
        w = r.split(" ") if sep else list(r)
        return sep.join(noisy(w)), r
    sep = rng.choice([" ", " ", "", "\n"])
    w = words()
    return sep.join(noisy(w)), sep.join(w)

def norm(s):
    s = "".join(c for c in s.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", s).split())

def f1(p, r):
    p, r = norm(p).split(), norm(r).split()
    same = sum((collections.Counter(p) & collections.Counter(r)).values())
    if not same: return 0.0
    a, b = same / len(p), same / len(r)
    return 2 * a * b / (a + b)

def score(i, p, r):
    row = {"id": i, "prediction": p, "reference": r}
    h, g = list(jieba.cut(p)), list(jieba.cut(r))
    row["jieba_prediction"], row["jieba_reference"] = h, g
    if not " ".join(h).split() or not " ".join(g).split():
        row["rouge_empty"] = True
        sc = {"rouge-1": {"f": 0.0}, "rouge-2": {"f": 0.0}, "rouge-l": {"f": 0.0}}
    else:
        sc = Rouge().get_scores(" ".join(h), " ".join(g))[0]
    row["rouge_chinese"] = sc
    row["lf_rouge"] = {k: round(v["f"] * 100, 4) for k, v in sc.items()}
    b = sentence_bleu([list(r)], list(p), smoothing_function=SmoothingFunction().method3)
    row["bleu4_raw"], row["lf_bleu4"] = float(b), round(b * 100, 4)
    for key, stem in (("rouge_score", False), ("rouge_score_stem", True)):
        s = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=stem).score(r, p)
        row[key] = {k: {"p": v.precision, "r": v.recall, "f": v.fmeasure} for k, v in s.items()}
    row["sacrebleu_sentence"] = {t: BLEU(tokenize=t, effective_order=True).sentence_score(p, [r]).score for t in ("13a", "zh", "char")}
    row["sentence_chrf"] = CHRF().sentence_score(p, [r]).score
    row["sentence_chrfpp"] = CHRF(word_order=2).sentence_score(p, [r]).score
    row["sentence_ter"] = TER().sentence_score(p, [r]).score
    row["exact_match_raw"] = int(p == r)
    row["squad_em"], row["squad_f1"], row["squad_norm_prediction"] = int(norm(p) == norm(r)), f1(p, r), norm(p)
    return row

rows = []
while len(rows) < count:
    p, r = pair()
    try:
        rows.append(score(len(rows), p, r))
    except (ZeroDivisionError, ValueError, RecursionError):
        continue
os.makedirs(out + "/metrics", exist_ok=True)
def lines_out(name, rs):
    with open(f"{out}/metrics/{name}", "w", encoding="utf-8") as f:
        for r in rs: f.write(json.dumps(r, ensure_ascii=False) + "\n")
def doc(name, v):
    with open(f"{out}/metrics/{name}", "w", encoding="utf-8") as f: json.dump(v, f, ensure_ascii=False, indent=1)
lines_out("pairs.jsonl", rows)
lines_out("jieba_cases.jsonl", [{"text": t, "cut": list(jieba.cut(t)), "cut_no_hmm": list(jieba.cut(t, HMM=False)), "cut_all": list(jieba.cut(t, cut_all=True)),
    "cut_for_search": list(jieba.cut_for_search(t))} for t in (r["reference"] for r in rows)])
ids = [r["id"] for r in rows]
refs2 = ["".join(noisy(list(r["reference"]))) for r in rows]
corpus = []
BL = [{}, *({"tokenize": t} for t in ("zh", "char", "none", "intl")), {"lowercase": True}, {"smooth_method": "floor"}, {"smooth_method": "floor", "smooth_value": 0.01},
      {"smooth_method": "add-k"}, {"smooth_method": "add-k", "smooth_value": 0.5}, {"smooth_method": "none"}, {"max_ngram_order": 2}, {"effective_order": True}]
CH = [{}, {"word_order": 2}, {"char_order": 4}, {"lowercase": True}, {"whitespace": True}, {"beta": 1}, {"eps_smoothing": True}]
TE = [{}, {"normalized": True}, {"case_sensitive": True}, {"no_punct": True}, {"normalized": True, "asian_support": True}, {"no_punct": True, "asian_support": True, "normalized": True}]
for name, cls, grid in (("bleu", BLEU, BL), ("chrf", CHRF, CH), ("ter", TER, TE)):
    for args in grid:
        for n in (1, 2):
            for which in (ids, ids[:7], ids[3:4]):
                refs = [[rows[i]["reference"] for i in which]] + ([[refs2[i] for i in which]] if n == 2 else [])
                m = cls(**args); s = m.corpus_score([rows[i]["prediction"] for i in which], refs)
                e = {"metric": name, "args": args, "ids": which, "n_refs": n, "score": s.score}
                if name == "bleu": e.update(counts=s.counts, totals=s.totals, precisions=s.precisions, bp=s.bp, sys_len=s.sys_len, ref_len=s.ref_len)
                e["signature"] = str(m.get_signature())
                corpus.append(e)
mean = {k: float(np.mean([r["lf_rouge"][k] for r in rows])) for k in ("rouge-1", "rouge-2", "rouge-l")}
mean["bleu-4"] = float(np.mean([r["lf_bleu4"] for r in rows]))
doc("corpus.json", {"ids": ids, "lf_mean": mean, "refs2": refs2, "corpus": corpus})
cases = []
for labels in ([0, 1], [0, 1, 2], ["cat", "dog", "鸟"], [7, 3, 11, 5], list(range(12)), ["b", "a"]):
    n = rng.randint(1, 60); t = [rng.choice(labels) for _ in range(n)]; p = [x if rng.random() < .6 else rng.choice(labels) for x in t]
    lab = sorted(set(t) | set(p)); kw = dict(zero_division=0)
    avg = lambda a: dict(zip(("precision", "recall", "f1"), (float(x) for x in sk.precision_recall_fscore_support(t, p, average=a, **kw)[:3])))
    pc = sk.precision_recall_fscore_support(t, p, labels=lab, average=None, **kw)
    c = {"y_true": t, "y_pred": p, "accuracy": float(sk.accuracy_score(t, p)), "mcc": float(sk.matthews_corrcoef(t, p)), "labels": lab,
         "confusion_matrix": sk.confusion_matrix(t, p, labels=lab).tolist(), "macro": avg("macro"), "micro": avg("micro"), "weighted": avg("weighted"),
         "per_class": {"precision": pc[0].tolist(), "recall": pc[1].tolist(), "f1": pc[2].tolist(), "support": pc[3].tolist()}}
    if lab == [0, 1]: c["binary_pos1"] = avg("binary")
    cases.append(c)
doc("sklearn.json", cases)
doc("squad.json", [{"prediction": p, "answers": a, "exact_match": int(any(norm(p) == norm(x) for x in a)), "f1": max(f1(p, x) for x in a)}
    for p, a in ((r["prediction"], [r["reference"], refs2[r["id"]]]) for r in rows[:60])])
