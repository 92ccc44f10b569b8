"""Writes a folder of reference cases of tokenizers and Jinja templates with random rows, in the layout that `tunefleet verify data` reads, by LLaMA-Factory itself.

PYTHONPATH=<LLaMA-Factory>/src python random_rows.py BASE OUT SEED SIZE [PART,...]

BASE is a folder of reference cases with tokenizers/; parts: tokenizers, jinja; random/make.py writes the others. Needs LLaMA-Factory's source (ff6d4d12 made
the reference) with transformers 4.57.6 and datasets 4.0.0. Then: tunefleet verify data OUT --base BASE. Fields that only help people
(texts of turns) are left out.
"""
import sys,types,importlib.machinery,json,random,os,copy
for n in ['torchaudio']:
    m=types.ModuleType(n); m.__spec__=importlib.machinery.ModuleSpec(n,None); sys.modules[n]=m
os.environ['DISABLE_VERSION_CHECK']='1'
import datetime
from llamafactory.data import tool_utils
class FD(datetime.datetime):
    @classmethod
    def now(cls,tz=None): return cls(2025,1,2)
tool_utils.datetime=FD
from transformers import AutoTokenizer
import logging; logging.disable(logging.CRITICAL)
FIX=sys.argv[1]
out, seed, n = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
parts = sys.argv[5].split(',') if len(sys.argv)>5 else ['tokenizers','jinja']
R=random.Random(seed)
WORDS=("the cat sat on mat Paris weather 今天 天气 很好 你好 世界 मौसम عربي 한국어 日本語 emoji 😀 👩‍👩‍👧 \u200d \u00a0 \u3000 \u2028 \ufeff é e\u0301 ﬁ Ⅷ 12345 3.14 0x1F #tag @user http://a.b/c?d=e&f=g "
"<|im_start|> <|im_end|> <think> </think> <tool_call> </tool_call> {{content}} {{system}} [INST] <s> </s> <|eot_id|> \\n \\t \"quoted\" 'x' <b>&amp; $x$ `code` ```py\nprint(1)\n``` a_b-c. ... ,;:!? ʼ ‘’ “” — – _ __ *bold* \\ / | ~ ^ %s %d {} [] () <|endoftext|> <unk> \r\n \x0b \x0c \u0085 \x1f 𝒳 𠮷 🇨🇳 ß ẞ İ ı ſ").split(' ')
def text(a=0,b=12):
    w=[R.choice(WORDS) for _ in range(R.randint(a,b))]
    s=R.choice([' ',' ','','\n',' ']).join(w)
    if R.random()<0.15: s=R.choice([' ','\n','\n\n','\t'])+s
    if R.random()<0.15: s=s+R.choice([' ','\n','\n\n','\t'])
    return s
def jval(d=0):
    k=R.randint(0,8)
    if k<3: return text(0,4)
    if k==3: return R.choice([0,-1,7,10**20,2**53+1,-0.0,1.5,1e-7,1e22,123456789.123,1e16])
    if k==4: return R.choice([True,False,None])
    if k==5 and d<3: return [jval(d+1) for _ in range(R.randint(0,3))]
    if k==6 and d<3: return {R.choice(['a','城市','x y','q"t','location',"it's"]):jval(d+1) for _ in range(R.randint(0,3))}
    return R.choice(['Paris','北京','5','true'])
def tool():
    props={}
    for _ in range(R.randint(0,4)):
        p={}
        if R.random()<0.95: p['type']=R.choice(['string','integer','number','boolean','array','object'])
        if R.random()<0.8: p['description']=text(0,5)
        if R.random()<0.3: p['enum']=[R.choice(['a','b','摄氏',1,2.5,None,True]) for _ in range(R.randint(0,3))]
        if R.random()<0.3: p['items']={'type':R.choice(['string','integer'])}
        if R.random()<0.1: p['default']=jval()
        if p.get('type')=='object' and R.random()<0.7:
            p['properties']={'inner':{'type':'string','description':text(0,3)}}
            if R.random()<0.5: p['required']=['inner']
        props[R.choice(['location','unit','days','城市','query','a_b','max-n'])]=p
    params={'type':'object','properties':props}
    if R.random()<0.7: params['required']=[k for k in props if R.random()<0.5]
    t={'name':R.choice(['get_weather','查询','calc_x','search-web','f']),'description':text(0,6),'parameters':params}
    if R.random()<0.1: t['extra']=jval()
    if R.random()<0.15: t={'type':'function','function':t}
    if R.random()<0.05: t.pop('description',None)
    return t
def tools():
    l=[tool() for _ in range(R.randint(1,3))]
    return json.dumps(l,ensure_ascii=R.random()<0.4, indent=R.choice([None,None,2]))
def call():
    args={R.choice(['location','unit','days','城市','q']):jval() for _ in range(R.randint(0,3))}
    return {'name':R.choice(['get_weather','查询','calc_x','f']),'arguments':args if R.random()<0.8 else json.dumps(args,ensure_ascii=False)}
def fcontent():
    k=R.random()
    if k<0.06: return text(0,4)
    c=call() if R.random()<0.6 else [call() for _ in range(R.randint(1,3))]
    s=json.dumps(c,ensure_ascii=R.random()<0.4)
    if R.random()<0.2: s='<think>\n'+text(0,4)+'\n</think>\n\n'+s
    return s
def answer():
    s=text(0,10)
    k=R.random()
    if k<0.15: s='<think>\n'+text(0,5)+'\n</think>\n\n'+s
    elif k<0.2: s='<think>'+text(0,3)+'</think>'+s
    elif k<0.23: s=s+'<think>\n\n</think>\n\n'
    elif k<0.25: s='</think>'+s
    elif k<0.27: s='<think>'+s
    return s
def conv(turns=None):
    m=[]
    for i in range(turns or R.randint(1,4)):
        if i>0 and R.random()<0.25: m.append({'role':'observation','content':text(0,6) if R.random()<0.5 else json.dumps(jval(),ensure_ascii=False)})
        else: m.append({'role':'user','content':text(0,8)})
        if R.random()<0.25: m.append({'role':'function','content':fcontent()})
        else: m.append({'role':'assistant','content':answer()})
    return m
def tok(name):
    return AutoTokenizer.from_pretrained(f'{FIX}/tokenizers/{name}')
def W(path,rows):
    p=os.path.join(out,path); os.makedirs(os.path.dirname(p),exist_ok=True)
    with open(p,'w',encoding='utf-8',newline='\n') as f:
        for r in rows: f.write(json.dumps(r,ensure_ascii=False)+'\n')
FORMATS=['default','gemma4','glm4','llama3','lfm2','minimax1','minimax2','mistral','qwen','qwen3_5','glm4_moe','seed_oss','ling']
def tokenizers():
    for tn in sorted(os.listdir(f'{FIX}/tokenizers')):
        if not os.path.isdir(f'{FIX}/tokenizers/{tn}'): continue
        t=tok(tn); rows=[]; dec=[]
        chars=[chr(R.choice([R.randint(0,0x7f),R.randint(0x80,0x2ff),R.randint(0x300,0x36f),R.randint(0x600,0x6ff),R.randint(0x900,0x97f),R.randint(0x2000,0x206f),R.randint(0x3000,0x30ff),R.randint(0x4e00,0x9fff),R.randint(0xac00,0xd7a3),R.randint(0x1f300,0x1f6ff),R.randint(0xfb00,0xfb06),R.randint(0xff00,0xffef),R.randint(0xe000,0xe0ff),R.randint(0x1d400,0x1d4ff)])) for _ in range(3000)]
        for k in range(8*n):
            z=R.random()
            if z<0.4: s=text(0,15)
            elif z<0.8: s=''.join(R.choice(chars) for _ in range(R.randint(0,40)))
            else: s=''.join(R.choice([R.choice(chars),R.choice([' ','  ','\n','\t','\r\n',"'s","'LL",'123','12 345','A','a'])]) for _ in range(R.randint(0,30)))
            if R.random()<0.1: s=s+R.choice(list(t.get_added_vocab()) or ['x'])+R.choice(['',' ','  \n'])+s[:3]
            ids=t.encode(s,add_special_tokens=False)
            rows.append({'text':s,'ids':ids,'ids_with_special':t.encode(s),'decode':t.decode(ids,clean_up_tokenization_spaces=False),'decode_skip_special':t.decode(ids,skip_special_tokens=True,clean_up_tokenization_spaces=False),'decode_default':t.decode(ids),'decode_default_skip_special':t.decode(ids,skip_special_tokens=True)})
            i=[R.randrange(len(t)) for _ in range(R.randint(0,20))] if R.random()<0.5 else ids[R.randint(0,3):][:R.randint(0,30)]
            dec.append({'ids':i,'decode':t.decode(i,clean_up_tokenization_spaces=False),'decode_default_skip_special':t.decode(i,skip_special_tokens=True)})
        W(f'tokenizers/{tn}/encode_cases.jsonl',rows); W(f'tokenizers/{tn}/decode_cases.jsonl',dec)
import transformers.utils.chat_template_utils as C
def jinjas():
    C.datetime=FD; rows=[]
    ref=[json.loads(l) for l in open(FIX+'/chat_templates/rendered.jsonl',encoding='utf-8').read().split('\n') if l]
    by={}
    for r in ref: by.setdefault(r['template'],[]).append(r)
    def msgs():
        m=[]
        if R.random()<.4: m.append({'role':'system','content':text(0,5)})
        for i in range(R.randint(1,3)):
            m.append({'role':'user','content':text(0,6)})
            if R.random()<.3:
                calls=[{'type':'function','id':R.choice(['123456789','abcdefghi','x']),'function':{'name':R.choice(['get_weather','f']),'arguments':R.choice([{'a':jval()},{'location':text(0,2),'n':3},json.dumps({'a':1})])}} for _ in range(R.randint(1,2))]
                x={'role':'assistant','content':R.choice(['',None,text(0,3)]),'tool_calls':calls}
                if R.random()<.2: x.pop('content')
                m.append(x)
                for c in calls: m.append({'role':'tool','tool_call_id':c['id'],'name':c['function']['name'],'content':R.choice([text(0,3),json.dumps({'t':1})])})
            if R.random()<.85 or i==0: 
                x={'role':'assistant','content':answer()}
                if R.random()<.15: x['reasoning_content']=text(0,4)
                m.append(x)
        if R.random()<.5: m.append({'role':'user','content':text(0,4)})
        if R.random()<.05: R.shuffle(m)
        return m
    def tls():
        l=json.loads(tools())
        return [t if 'function' in t else {'type':'function','function':t} for t in l]
    for name,rs in sorted(by.items()):
        src_t=open(f'{FIX}/chat_templates/jinja/{name}',encoding='utf-8').read() if os.path.exists(f'{FIX}/chat_templates/jinja/{name}') else open(f'{FIX}/chat_templates/jinja/{name}.jinja',encoding='utf-8').read()
        for k in range(n):
            base=R.choice(rs)
            r={'template':name,'case':f'f{k}','messages':msgs(),'tools':tls() if R.random()<.4 else None,'kwargs':R.choice([{},{},base['kwargs']]),'add_generation_prompt':R.random()<.5,'bos_token':base['bos_token'],'eos_token':base['eos_token']}
            try:
                t=C._compile_jinja_template(src_t)
                kw=dict(r['kwargs']); 
                if r['bos_token'] is not None: kw['bos_token']=r['bos_token']
                if r['eos_token'] is not None: kw['eos_token']=r['eos_token']
                r['rendered']=t.render(messages=copy.deepcopy(r['messages']),tools=copy.deepcopy(r['tools']),documents=None,add_generation_prompt=r['add_generation_prompt'],**kw)
            except Exception as e:
                r['error']=f'{type(e).__name__}: {e}'
            rows.append(r)
    os.system(f'mkdir -p {out}/chat_templates && cp -r {FIX}/chat_templates/jinja {out}/chat_templates/')
    W('chat_templates/rendered.jsonl',rows)
if 'tokenizers' in parts: tokenizers()
if 'jinja' in parts: jinjas()
