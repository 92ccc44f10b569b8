"""Writes a folder of reference cases with random rows, in the layout that `tunefleet verify data` reads, by LLaMA-Factory itself.

PYTHONPATH=<LLaMA-Factory>/src python random_rows.py BASE OUT SEED SIZE [PART,...]

BASE is a folder of reference cases with tokenizers/; parts: templates, tools, tokenizers, jinja, processors. Needs LLaMA-Factory's source (ff6d4d12 made
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
from llamafactory.data.template import TEMPLATES, ReasoningTemplate
from llamafactory.data.tool_utils import get_tool_utils, FunctionCall
from transformers import AutoTokenizer
import logging; logging.disable(logging.CRITICAL)
FIX=sys.argv[1]
out, seed, n = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
parts = sys.argv[5].split(',') if len(sys.argv)>5 else ['templates','tools','tokenizers','jinja','processors']
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
def templates():
    for name in sorted(TEMPLATES):
        rows=[]
        for tn in ['tiny_qwen','tiny_llama3']+R.sample(['llama2','gpt2','phi3','deepseek_llm','falcon','llama2_nonlegacy'],1 if R.random()<0.3 else 0):
            tk=tok(tn)
            try: copy.deepcopy(TEMPLATES[name]).fix_special_tokens(tk)
            except Exception: continue
            for k in range(n):
                t=copy.deepcopy(TEMPLATES[name])
                reasoning=isinstance(t,ReasoningTemplate)
                et=R.choice([True,True,False,None]) if reasoning else True
                pt=R.choice([False,False,True]) if reasoning else False
                if reasoning: t.enable_thinking=et; t.preserve_thinking=pt
                r={'template':name,'tokenizer':tn,'case':f'f{k}','system':R.choice([None,'',text(1,6),text(1,6)]),'tools':R.choice([None,None,None,tools(),tools()]) if R.random()<0.7 else None,'messages':conv(),'reasoning_template':reasoning}
                if R.random()<0.03: r['tools']=R.choice(['[]','','not json','{}','null'])
                if reasoning: r['enable_thinking']=et; r['preserve_thinking']=pt
                ms=r['messages']
                try:
                    r['oneturn_ids']=list(t.encode_oneturn(tk,copy.deepcopy(ms),r['system'],r['tools']))
                    r['turns_ids']=[list(x) for x in t.encode_multiturn(tk,copy.deepcopy(ms),r['system'],r['tools'])]
                except Exception as e:
                    r['error']=f'{type(e).__name__}: {e}'
                rows.append(r)
        W(f'templates/{name}.jsonl',rows)
def toolrows():
    rows=[]
    for f in FORMATS:
        u=get_tool_utils(f)
        for k in range(6*n):
            s=tools(); r={'kind':'tool_formatter','tool_format':f,'tools':s,'date':'02 Jan 2025'}
            try: r['output']=u.tool_formatter(json.loads(s)); r['error']=None
            except Exception as e: r['error']=f'{type(e).__name__}: {e}'
            rows.append(r)
            calls=[]
            for _ in range(R.randint(1,3)):
                c=call(); a=c['arguments']; calls.append([c['name'],a if isinstance(a,str) else json.dumps(a,ensure_ascii=R.random()<0.3)])
            r={'kind':'function_formatter','tool_format':f,'calls':calls}
            o=None
            try:
                o=u.function_formatter([FunctionCall(*c) for c in calls]); r['output']=o
                x=u.tool_extractor(o); r['extracted']=[list(c) for c in x] if isinstance(x,list) else x
            except Exception as e: r={'kind':'function_formatter','tool_format':f,'calls':calls,'error':f'{type(e).__name__}: {e}'}
            rows.append(r)
            if o:
                b=list(o)
                for _ in range(R.randint(0,4)):
                    i=R.randrange(len(b)+1)
                    z=R.random()
                    if z<0.4 and b: del b[min(i,len(b)-1)]
                    elif z<0.8: b.insert(i,R.choice(['"',"'",'{','}','[',']','\n',' ','x','<','>',',','1','\\',':','(',')','=']))
                    else: b.insert(i,text(1,2))
                c=''.join(b)
                if R.random()<0.3: c=text(0,3)+c
                if R.random()<0.3: c=c+text(0,3)
                if R.random()<0.2: c=c+'\n'+o
                r={'kind':'tool_extractor','tool_format':f,'content':c}
                try:
                    x=u.tool_extractor(c); r['extracted']=[list(q) for q in x] if isinstance(x,list) else x
                except Exception as e: r['error']=f'{type(e).__name__}: {e}'
                rows.append(r)
    W('templates/tool_utils.jsonl',rows)
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
if 'templates' in parts: templates()
if 'tools' in parts: toolrows()
if 'tokenizers' in parts: tokenizers()
if 'jinja' in parts: jinjas()
if 'processors' not in parts: sys.exit(0)
import types as T
from llamafactory.data.parser import DatasetAttr
from llamafactory.data.converter import get_dataset_converter
from llamafactory.data.processor import *
from llamafactory.data.processor import SupervisedDatasetProcessor,PackedSupervisedDatasetProcessor,PairwiseDatasetProcessor,FeedbackDatasetProcessor,PretrainDatasetProcessor,UnsupervisedDatasetProcessor
ATTR=['formatting','ranking','system','tools','images','videos','audios','chosen','rejected','kto_tag','prompt','query','response','history','messages','role_tag','content_tag','user_tag','assistant_tag','observation_tag','function_tag','system_tag']
def maybe(a,p): return a if R.random()<p else None
def longtext():
    return text(0,R.choice([3,12,40,120]))
def raw(kind):
    fmt=R.choice(['alpaca','sharegpt','openai']) if kind!='pt' else 'alpaca'
    a=DatasetAttr('file','x'); a.formatting=fmt
    a.ranking = kind=='pairwise'
    d={}
    if fmt=='alpaca':
        a.prompt='instruction'; a.query='input'; a.response='output'; a.history=maybe('history',.5); a.system=maybe('system',.5); a.tools=None
        d={'instruction':longtext() if R.random()<.95 else '','input':R.choice(['',text(0,5),None]),'output':longtext() if R.random()<.9 else ''}
        if R.random()<.02: d['instruction']=None
        if a.history: d['history']=R.choice([None,[],[[text(0,4),text(0,5)] for _ in range(R.randint(1,3))]])
        if a.system: d['system']=R.choice([None,'',text(1,5)])
        if kind=='pairwise':
            a.chosen='chosen'; a.rejected='rejected'; d['chosen']=longtext(); d['rejected']=longtext(); d.pop('output')
            a.response=None
        if kind=='kto': a.kto_tag='label'; d['label']=R.random()<.5
    else:
        a.messages='messages'; a.system=maybe('system',.4); a.tools=maybe('tools',.5)
        if fmt=='sharegpt': role,con,tags='from','value',dict(user='human',assistant='gpt',observation='observation',function='function_call',system='system')
        else: role,con,tags='role','content',dict(user='user',assistant='assistant',observation='tool',function='function',system='system')
        if R.random()<.3: tags=dict(user='u',assistant='a',observation='o',function='f',system='s'); role,con='r','c'
        a.role_tag,a.content_tag,a.user_tag,a.assistant_tag,a.observation_tag,a.function_tag,a.system_tag=role,con,tags['user'],tags['assistant'],tags['observation'],tags['function'],tags['system']
        ms=conv()
        if R.random()<.3: ms=[{'role':'system','content':text(0,4)}]+ms
        if R.random()<.08: ms.pop(R.randrange(len(ms)))
        if R.random()<.05 and ms: ms[R.randrange(len(ms))]['role']=R.choice(list(tags))
        m2=[{role:tags[m['role']],con:(m['content'] if R.random()<.98 else '')} for m in ms]
        if fmt=='openai':
            for m,o in zip(m2,ms):
                if o['role']=='function' and R.random()<.8:
                    m[role]=tags['assistant']; m[con]=R.choice(['',None,text(0,3)]); m['tool_calls']=[{'type':'function','id':'1','function':{'name':'get','arguments':R.choice([json.dumps({'a':text(0,2)},ensure_ascii=False),{'a':1}])}} for _ in range(R.randint(1,2))]
            if R.random()<.2 and len(m2)>2:
                k=R.randrange(len(m2)); m2.insert(k,dict(m2[k]))
        d={'messages':m2}
        if a.system: d['system']=R.choice(['',text(1,5),None])
        if a.tools:
            tl=json.loads(tools()); d['tools']=R.choice([tools(),'',None]) if fmt=='sharegpt' else R.choice([tl,tools(),None,''])
        if kind=='pairwise':
            a.chosen='chosen'; a.rejected='rejected'
            if m2 and R.random()<.95: m2.pop()
            d['chosen']={role:tags['assistant'],con:longtext()}; d['rejected']={role:tags[R.choice(['assistant']*9+['user'])],con:longtext()}
        if kind=='kto': a.kto_tag='label'; d['label']=R.random()<.5
    at={k:getattr(a,k) for k in ATTR}
    return a,at,d
DA=T.SimpleNamespace(media_dir='/tmp',dataset_dir='/tmp')
def examples(kind,dirn,N):
    rows=[]; ex=[]
    for i in range(N):
        a,at,d=raw(kind)
        r={'id':i,'dataset_attr':at,'raw':d}
        try:
            c=get_dataset_converter(a.formatting,a,DA)(copy.deepcopy(d)); r['aligned']=c; 
            if kind=='sft': r['error']=None
            ex.append(c)
        except Exception as e:
            r['error']=f'{type(e).__name__}: {e}'; ex.append(None)
        rows.append(json.loads(json.dumps(r)))
    W(f'{dirn}/examples.jsonl',rows)
    return ex
def args(**k):
    return T.SimpleNamespace(**dict(dict(template=None,train_on_prompt=False,tool_format=None,default_system=None,enable_thinking=True,preserve_thinking=False,cutoff_len=64,mask_history=False,packing=False,neat_packing=False,media_dir='/tmp'),**k))
KEYS=['template','train_on_prompt','tool_format','default_system','enable_thinking','preserve_thinking','cutoff_len','mask_history','packing','neat_packing']
from llamafactory.data.template import get_template_and_fix_tokenizer
names=[x for x in sorted(TEMPLATES) if type(TEMPLATES[x].mm_plugin).__name__=='BasePlugin'] # others want images' processor
ORIGINAL=copy.deepcopy(TEMPLATES)
def setup(a,tn):
    TEMPLATES[a.template]=copy.deepcopy(ORIGINAL[a.template]) # what is set on a template stays set otherwise
    tk=tok(tn); t=get_template_and_fix_tokenizer(tk,a)
    return t,tk
def head(kind,a,tn,tk): return {'kind':kind,'template':a.template,'tokenizer':tn,'args':{k:getattr(a,k) for k in KEYS},'bos_token_id':tk.bos_token_id,'eos_token_id':tk.eos_token_id,'pad_token_id':tk.pad_token_id}
def pick(): return R.choice(names),R.choice(['tiny_qwen','tiny_llama3','tiny_qwen','tiny_llama3','llama2','llama2_nonlegacy'])
def batch(exs): return {k:[e[k] for e in exs] for k in ('_prompt','_response','_system','_tools','_images','_videos','_audios')}
FIELDS={'supervised':('input_ids','labels'),'unsupervised':('input_ids','labels'),'pairwise':('chosen_input_ids','chosen_labels','rejected_input_ids','rejected_labels')}
def per(kind,P,exs,dirn,count,fname):
    rows=[]
    for _ in range(count):
        name,tn=pick()
        a=args(template=name,cutoff_len=R.choice([1,2,3,4,5,8,16,24,40,64,100,256,1024]),enable_thinking=R.choice([True,True,False,None]),preserve_thinking=R.random()<.2,tool_format=R.choice([None]*6+FORMATS[:]),default_system=R.choice([None,None,text(1,3)]))
        if kind=='supervised':
            z=R.random()
            if z<.3: a.mask_history=True
            elif z<.45: a.train_on_prompt=True
        try: t,tk=setup(a,tn)
        except Exception as e: continue
        p=P(template=t,tokenizer=tk,processor=None,data_args=a)
        r=head(kind,a,tn,tk)
        if kind=='supervised': r['efficient_eos']=t.efficient_eos
        outs=[]
        for i,e in enumerate(exs):
            if e is None: continue
            o={'example':i}
            try:
                m=p.preprocess_dataset(copy.deepcopy(batch([e])))
                if not m.get(FIELDS[kind][0]): o['dropped']=True
                else:
                    for f in FIELDS[kind]: o[f]=[int(x) for x in m[f][0]]
            except Exception as er: o['error']=f'{type(er).__name__}: {er}'
            outs.append(o)
        r['outputs']=outs; rows.append(r)
    W(f'{dirn}/{fname}',rows)
N=60; C=n*6
exs=examples('sft','sft',N)
per('supervised',SupervisedDatasetProcessor,exs,'sft',C,'supervised.jsonl')
per('unsupervised',UnsupervisedDatasetProcessor,exs,'sft',C//2,'unsupervised.jsonl')
rows=[]
for _ in range(C):
    name,tn=pick(); a=args(template=name,cutoff_len=R.choice([3,8,16,24,40,64,100,256,1024]),enable_thinking=R.choice([True,True,False,None]),mask_history=R.random()<.2,packing=True,neat_packing=R.random()<.5)
    try: t,tk=setup(a,tn)
    except Exception: continue
    p=PackedSupervisedDatasetProcessor(template=t,tokenizer=tk,processor=None,data_args=a)
    r=head('packed',a,tn,tk)
    ids=[i for i,e in enumerate(exs) if e is not None]; R.shuffle(ids); ids=ids[:R.randint(1,len(ids))]
    ok=[]
    for i in ids:
        try: SupervisedDatasetProcessor(template=t,tokenizer=tk,processor=None,data_args=a).preprocess_dataset(copy.deepcopy(batch([exs[i]]))); ok.append(i)
        except Exception: pass
    r['examples']=ok
    try:
        m=p.preprocess_dataset(copy.deepcopy(batch([exs[i] for i in ok])))
        for f in ('input_ids','labels','attention_mask','position_ids'): r[f]=[[int(x) for x in q] for q in m.get(f,[])]
        pp=m.get('packing_params'); r['packing_params']=None if pp is None or pp and pp[0] is None else pp
    except Exception as e: r['error']=f'{type(e).__name__}: {e}'
    rows.append(r)
W('sft/packed.jsonl',rows)
exs=examples('pairwise','pairwise',N)
per('pairwise',PairwiseDatasetProcessor,exs,'pairwise',C//2,'pairwise.jsonl')
exs=examples('kto','kto',N)
rows=[]
for _ in range(C//2):
    name,tn=pick(); a=args(template=name,cutoff_len=R.choice([1,3,8,16,24,40,64,256]),enable_thinking=R.choice([True,True,False,None]))
    try: t,tk=setup(a,tn)
    except Exception: continue
    ids=[i for i,e in enumerate(exs) if e is not None and e['_prompt'] and e['_response']]
    ok=[]
    for i in ids:
        try: UnsupervisedDatasetProcessor(template=t,tokenizer=tk,processor=None,data_args=a).preprocess_dataset(copy.deepcopy(batch([exs[i]]))); ok.append(i)
        except Exception: pass
    R.shuffle(ok); ok=ok[:R.randint(1,20)]
    r=head('kto',a,tn,tk); r['examples']=ok
    try:
        m=FeedbackDatasetProcessor(template=t,tokenizer=tk,processor=None,data_args=a).preprocess_dataset(copy.deepcopy(batch([exs[i] for i in ok])))
        for f,g in (('input_ids','input_ids'),('labels','labels'),('kl_input_ids','kl_input_ids'),('kl_labels','kl_labels')): r[f]=[[int(x) for x in q] for q in m.get(g,[])]
        r['kto_tags']=list(m.get('kto_tags',[]))
    except Exception as e: r['error']=f'{type(e).__name__}: {e}'
    rows.append(r)
W('kto/kto.jsonl',rows)
texts=[{'id':i,'text':longtext()} for i in range(20)]
W('pt/texts.jsonl',texts)
rows=[]
for _ in range(C//2):
    name,tn=pick(); a=args(template=name,cutoff_len=R.choice([1,2,5,16,24,64,256]),packing=R.random()<.5)
    try: t,tk=setup(a,tn)
    except Exception: continue
    r={'kind':'pt','template':name,'tokenizer':tn,'cutoff_len':a.cutoff_len,'packing':a.packing,'add_bos_token':bool(getattr(tk,'add_bos_token',False)),'bos_token_id':tk.bos_token_id,'eos_token_id':tk.eos_token_id,'pad_token_id':tk.pad_token_id,'eos_text':'<|end_of_text|>' if name=='llama3' else tk.eos_token}
    try:
        m=PretrainDatasetProcessor(template=t,tokenizer=tk,processor=None,data_args=a).preprocess_dataset({'_prompt':[[{'role':'user','content':x['text']}] for x in texts]})
        r['input_ids']=[[int(x) for x in q] for q in m.get('input_ids',[])]
    except Exception as e: r['error']=f'{type(e).__name__}: {e}'
    rows.append(r)
W('pt/pretrain.jsonl',rows)
