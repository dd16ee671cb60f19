"""The catalogue of coded reasons: why something waits, was refused or needs a person, in words. Does no I/O.

Every code that leaves the service (status comment, problem document, case state, SR, log) is a row here.
Rows are only ever added: codes are part of the interface (docs/reasons.md is generated from this table).
"""

from dataclasses import dataclass
from enum import StrEnum


class Family(StrEnum):
    """What a reader should conclude from a reason."""

    WAITING = "waiting"  # nothing is wrong: not yet
    NOTE = "note"  # it ran; a person should know this
    REFUSED = "refused"  # the sender's: will not run as it is
    UNAVAILABLE = "unavailable"  # will be tried again
    DEFECT = "defect"  # ours: an operator has to look


@dataclass(frozen=True, slots=True)
class Reason:
    """One coded reason with its words and the next action, in English and Chinese."""

    code: str
    family: Family
    en: str
    zh: str
    next_en: str
    next_zh: str


_W, _N, _R, _U, _D = Family.WAITING, Family.NOTE, Family.REFUSED, Family.UNAVAILABLE, Family.DEFECT

# fmt: off
_ROWS: tuple[tuple[str, Family, str, str, str, str], ...] = (
    # --- waiting -------------------------------------------------------------------------------------------
    ("ASSOCIATION_OPEN", _W, "The sender's association is still open.", "发送方的连接尚未结束。", "Wait; it closes by itself or times out.", "请等待，连接会自行结束或超时。"),
    ("COUNT_INCOMPLETE", _W, "Fewer instances arrived than the PACS holds for this patient.", "收到的图像少于PACS中该患者的图像数。", "Wait, or send the missing series again.", "请等待，或重新发送缺少的序列。"),
    ("QUIET_TIME", _W, "Waiting for the quiet time after the last image to pass.", "正在等待最后一幅图像后的静默时间。", "Wait, or start it now with POST /v1/analyses.", "请等待，或用 POST /v1/analyses 立即开始。"),
    ("WAITING_FOR_MODALITY", _W, "What came is complete; another kind of image is waited for, as this site's policy says.", "已到的图像完整；按本站点策略等待另一种影像。", "Wait, or start it now with POST /v1/analyses.", "请等待，或用 POST /v1/analyses 立即开始。"),
    ("QUEUED", _W, "Waiting in the queue for a worker.", "正在队列中等待处理。", "Wait; see the queue's length in the status page.", "请等待，可在状态页查看队列长度。"),
    ("RUNNING", _W, "The analysis is running.", "分析正在进行。", "Wait.", "请等待。"),
    ("DELIVERING", _W, "The results are being sent.", "结果正在发送。", "Wait.", "请等待。"),
    ("RETRY_LATER", _W, "A try failed; the next one is scheduled.", "一次尝试失败，已安排下一次。", "Wait, or press retry.", "请等待，或点击重试。"),
    ("FETCH_DUE", _W, "The PACS will be asked for other studies of this patient.", "将向PACS查询该患者的其他检查。", "Wait.", "请等待。"),
    ("FETCHING", _W, "Other studies of this patient are being fetched from the PACS.", "正在从PACS获取该患者的其他检查。", "Wait; the case goes on without them after fetch.hold_s.", "请等待；超过 fetch.hold_s 后病例将不再等待。"),
    ("FETCH_CHOSEN", _W, "This study was chosen; it waits for its turn or for the quiet hours to end.", "该检查已选定，正在等待轮次或静默时段结束。", "Wait, or fetch it now with casework fetch.", "请等待，或用 casework fetch 立即获取。"),
    ("PROOF_PENDING", _W, "The destination stored the results; it has yet to prove that it holds them.", "目的地已保存结果，尚待证明其确实持有。", "Wait.", "请等待。"),
    # --- notes ---------------------------------------------------------------------------------------------
    ("DELIVERED", _N, "All results were stored by their destinations.", "所有结果均已被目的地保存。", "Nothing to do.", "无需操作。"),
    ("COMMITTED", _N, "The destination proved that it holds the result.", "目的地已证明其持有该结果。", "Nothing to do.", "无需操作。"),
    ("NO_DESTINATION", _N, "Results are ready; no destination is configured.", "结果已生成；未配置目的地。", "Download them, or configure a destination.", "请下载结果，或配置目的地。"),
    ("SUPERSEDED", _N, "A newer revision of this case has replaced this result.", "该结果已被本病例的新版本取代。", "Read the newer revision.", "请查看新版本。"),
    ("RETRACTED_QUALITY", _N, "These results were withdrawn for reasons of quality.", "该结果因质量原因被撤回。", "Don't use them; read a newer revision if there is one.", "请勿使用；如有新版本，请查看新版本。"),
    ("RETRACTED_SAFETY", _N, "These results were withdrawn for reasons of patient safety.", "该结果因患者安全原因被撤回。", "Don't use them, and look who has read them already.", "请勿使用，并查明哪些人已阅读该结果。"),
    ("RETRACTED_WORKLIST", _N, "These results were withdrawn because of a wrong worklist entry: the wrong patient, study or order.", "该结果因工作列表条目错误（患者、检查或申请有误）被撤回。", "Don't use them; correct the entry and send the images again.", "请勿使用；请更正条目并重新发送图像。"),
    ("RETRACTED_RETENTION", _N, "These results were withdrawn because their retention time has ended.", "该结果因保存期限已到被撤回。", "Don't use them.", "请勿使用。"),
    ("IMAGES_EXPIRED", _N, "Images of this case were removed here, as the retention policy says.", "按保存策略，本病例的图像已从此处删除。", "Nothing to do; the PACS keeps them. Send them again to analyse them again.", "无需操作，PACS仍保存图像。如需再次分析，请重新发送。"),
    ("RESULTS_EXPIRED", _N, "Results of this case were removed here, as the retention policy says; its destinations keep them.", "按保存策略，本病例的结果已从此处删除；目的地仍保存。", "Nothing to do; read them in the PACS.", "无需操作，请在PACS中查看。"),
    ("ON_HOLD", _N, "A person asked that nothing of this case is removed.", "已有人要求保留本病例的全部内容。", "Lift the hold with casework hold --lift when it is over.", "保留期结束后，请用 casework hold --lift 解除。"),
    ("MODALITY_MISSING", _N, "A modality that the model can use was not there.", "缺少模型可使用的一种影像。", "Read the result with this limit in mind.", "阅读结果时请注意此限制。"),
    ("WAIT_OVER", _N, "A kind of image was waited for and did not come in time; the case ran without it.", "所等待的影像未按时到达；病例在缺少该影像的情况下运行。", "Read the result with this limit in mind; images that come later make a new revision.", "阅读结果时请注意此限制；之后到达的图像会生成新版本。"),
    ("VIEW_MISSING", _N, "An expected mammography view was not there.", "缺少一个预期的乳腺X线投照体位。", "Read the result with this limit in mind.", "阅读结果时请注意此限制。"),
    ("LATERALITY_UNKNOWN", _N, "An image states no side and was left out.", "图像未标明侧别，未被使用。", "Correct Laterality at the modality and send again.", "请在设备端更正侧别后重新发送。"),
    ("VIEW_UNKNOWN", _N, "A mammogram states no view and was left out.", "乳腺X线图像未标明体位，未被使用。", "Correct View Position at the modality and send again.", "请在设备端更正体位后重新发送。"),
    ("PHASES_INCOMPLETE", _N, "The MRI series has fewer contrast phases than the model needs and was left out.", "MRI序列的增强期相不足，未被使用。", "Send the whole dynamic series.", "请发送完整的动态增强序列。"),
    ("NOT_FOR_PRESENTATION", _N, "A For Processing mammogram was left out; its For Presentation twin is used.", "未使用供处理的原始图像；使用供显示的图像。", "Nothing to do.", "无需操作。"),
    ("IMAGE_NOT_CHOSEN", _N, "Another image of the same view was preferred.", "同一体位中选择了另一幅图像。", "Nothing to do.", "无需操作。"),
    ("ONLY_FOR_PROCESSING", _N, "Only a For Processing mammogram of this view was there; the model is not made for it.", "该体位仅有供处理的原始图像，模型不适用。", "Send the For Presentation image of this view.", "请发送该体位供显示的图像。"),
    ("IMAGE_KIND_NOT_USED", _N, "The model does not use images of this kind (tomosynthesis, spot views, scouts and others).", "模型不使用此类图像（断层合成、局部点压、定位像等）。", "Nothing to do.", "无需操作。"),
    ("PIXELS_UNDECODABLE", _N, "An image's pixels could not be decoded; it was left out.", "图像像素无法解码，未被使用。", "Send it again in another transfer syntax.", "请以其他传输语法重新发送。"),
    ("ENGINE_FALLBACK", _N, "The engine that this site prefers could not be used; another one, which passed the same examination, computed this result.", "本站点首选的推理引擎无法使用；本结果由另一个通过相同检验的引擎计算。", "Nothing to do for this result; operators: see the worker's log.", "本结果无需处理；运维人员请查看推理进程日志。"),
    ("PEER_WARNED", _N, "The destination stored the result with a warning.", "目的地已保存结果，但有警告。", "Read its status if something looks wrong there.", "如在该处显示异常，请查看其状态。"),
    ("IMAGE_BLANK", _N, "No tissue could be found in an image; it was left out.", "图像中未找到组织，未被使用。", "Look at the image; send the right one.", "请查看该图像并发送正确的图像。"),
    ("GEOMETRY_IRREGULAR", _N, "An MRI series has missing, repeated or differently placed slices.", "MRI序列存在缺失、重复或位置不一致的层面。", "Send the whole series again, or read the result with this limit in mind.", "请重新发送完整序列，或阅读结果时注意此限制。"),
    ("CONTRAST_NOT_SEEN", _N, "No contrast uptake could be seen between the phases of the MRI; it was left out.", "MRI各期相之间未见对比剂强化，未被使用。", "Check that it is the dynamic series, whole and with contrast agent.", "请确认其为完整且已注射对比剂的动态增强序列。"),
    ("SIDES_UNCERTAIN", _N, "Right and left breast could not be told apart for certain in the MRI; it was left out.", "MRI中无法可靠区分左右乳腺，未被使用。", "Correct Laterality at the modality and send again, or read the MRI without this analysis.", "请在设备端更正侧别后重新发送，或在无本分析结果的情况下阅读该MRI。"),
    ("SEVERAL_DAYS", _N, "Images of one modality from different days were read together.", "同一种影像中不同日期的图像被一并分析。", "Look at the study dates before reading the result.", "阅读结果前请核对各检查的日期。"),
    ("DAYS_APART", _N, "The images that were read are more than a month apart; treatment may lie between them.", "所分析图像的检查日期相隔一个月以上，其间可能接受过治疗。", "Look at the study dates before reading the result.", "阅读结果前请查看检查日期。"),
    ("ORIENTATION_UNEXPECTED", _N, "A mammogram's chest wall lies at the other edge than its side or orientation says.", "乳腺X线图像的胸壁位置与其侧别或方向标注不符。", "Check the side of this image before reading the result.", "阅读结果前请核对该图像的侧别。"),
    ("REGION_UNCALIBRATED", _N, "An ultrasound image states no calibrated region; its picture area was found from the pixels.", "超声图像未标明校准区域；图像区域由像素推定。", "Read the result with this limit in mind.", "阅读结果时请注意此限制。"),
    ("INPUT_REPLACED", _N, "An image was replaced by a corrected one with the same SOP Instance UID.", "一幅图像已被相同SOP实例UID的更正图像取代。", "Nothing to do; the earlier revision keeps the first.", "无需操作；先前版本保留原图像。"),
    ("EXCLUDED_WRONG_PATIENT", _N, "Taken out: it shows another patient.", "已剔除：属于其他患者。", "Withdraw earlier results that used it, where they can't wait for the new revision; a study that is left without images is withdrawn by itself.", "如不能等待新版本，请撤回使用过该图像的先前结果；不再有图像的检查会自动撤回。"),
    ("EXCLUDED_WRONG_SIDE", _N, "Taken out: it states the wrong side.", "已剔除：侧别标注错误。", "Send the corrected image; it is then taken as new.", "请发送更正后的图像，将作为新图像接收。"),
    ("EXCLUDED_POOR_QUALITY", _N, "Taken out: its quality does not allow an analysis.", "已剔除：图像质量不足以分析。", "Send a better image, or read the result with this limit in mind.", "请发送更好的图像，或阅读结果时注意此限制。"),
    ("EXCLUDED_OTHER", _N, "Taken out by a person for another reason.", "因其他原因被人工剔除。", "See who did it and what was said.", "请查看操作者和说明。"),
    ("STUDY_WITHDRAWN", _N, "All images of this study were taken out of the case; what an earlier revision had said in it was withdrawn there by a rejection note.", "该检查的所有图像均已从病例中剔除；先前版本在该检查中的结果已通过拒绝说明撤回。", "Look who has read the earlier result.", "请查明哪些人已阅读先前的结果。"),
    ("ISSUER_ASSUMED", _N, "Studies with and without an issuer of the Patient ID were joined: birth date and sex agree.", "患者ID签发机构有无不一的检查已归为同一患者：出生日期和性别一致。", "Check that they are of one patient; take out what is not.", "请核对是否为同一患者，并剔除不属于该患者的图像。"),
    ("ISSUER_UNCERTAIN", _N, "Another case has the same Patient ID with or without an issuer, and nothing tells for certain whether it is the same patient; they are kept apart.", "另一病例有相同的患者ID（签发机构有无不一），无法确定是否为同一患者；两者分开保存。", "Have the PACS state issuer and birth date in all of them, and send again.", "请在PACS中补全签发机构和出生日期后重新发送。"),
    ("DUPLICATE", _N, "The same instance with the same bytes was already here.", "相同的图像已存在。", "Nothing to do.", "无需操作。"),
    ("FETCHED", _N, "This study was fetched from the PACS.", "该检查已从PACS获取。", "Nothing to do.", "无需操作。"),
    ("PRIOR_CONTEXT", _N, "An older study, fetched as context; it is kept and not analysed with this case.", "作为参考获取的既往检查；已保存，不参与本病例分析。", "Nothing to do.", "无需操作。"),
    ("FETCH_ALREADY_HERE", _N, "The study is here already, or its sender is sending it.", "该检查已在此处，或发送方正在发送。", "Nothing to do.", "无需操作。"),
    ("FETCH_MODALITY", _N, "The study holds no MG, MR or US series.", "该检查不含MG、MR或US序列。", "Nothing to do.", "无需操作。"),
    ("FETCH_MODALITY_HERE", _N, "The case has images of this modality already.", "本病例已有该类影像。", "Fetch it with casework fetch if it is wanted.", "如需要，请用 casework fetch 获取。"),
    ("FETCH_OUTSIDE_WINDOW", _N, "The study's date lies outside the case's window, and it is not wanted as a prior.", "该检查日期不在病例时间窗内，且不需作为既往检查。", "Set fetch.priors if older studies are wanted.", "如需既往检查，请设置 fetch.priors。"),
    ("FETCH_DATE_UNKNOWN", _N, "The PACS states no date for the study.", "PACS未提供该检查的日期。", "Correct it in the PACS, or fetch it with casework fetch.", "请在PACS中更正，或用 casework fetch 获取。"),
    ("FETCH_OLDER_PRIOR", _N, "Newer priors of the same modality were preferred.", "已选择同类影像中较新的既往检查。", "Raise fetch.priors if more are wanted.", "如需更多，请提高 fetch.priors。"),
    ("FETCH_BODY_PART", _N, "The study's body part is not the breast.", "该检查部位不是乳腺。", "Nothing to do.", "无需操作。"),
    ("FETCH_NOT_BREAST", _N, "Nothing says that this is a study of the breast.", "没有信息表明该检查为乳腺检查。", "Correct the description in the PACS, or fetch it with casework fetch.", "请在PACS中更正描述，或用 casework fetch 获取。"),
    ("FETCH_TOO_MANY_IMAGES", _N, "The study has more images than fetch.max_images.", "该检查图像数超过 fetch.max_images。", "Raise the limit, or send the study from the PACS.", "请提高上限，或从PACS发送该检查。"),
    ("FETCH_OTHER_PATIENT", _N, "Issuer, birth date or name contradict: this is taken for another patient's.", "签发机构、出生日期或姓名不符：视为其他患者的检查。", "Settle the identity in the PACS; it is never fetched as it is.", "请在PACS中核实身份；现状下不会获取。"),
    ("FETCH_FAILED", _N, "A study of this patient could not be fetched; the case went on without it.", "未能获取该患者的一项检查；病例在缺少该检查的情况下继续。", "Read the cause, then fetch it with casework fetch.", "请查看原因，然后用 casework fetch 获取。"),
    # --- the input gate, found and told ---
    ("STUDY_NOT_USED", _N, "No image of this study was used; other studies of the same case were analysed.", "未使用本检查的任何图像；同一病例的其他检查已分析。", "Read each image's reason; send what is missing.", "请查看每幅图像的原因，并补发缺少的内容。"),
    ("BODY_PART_OTHER", _N, "Images name another part of the body than the breast and were left out.", "图像标明为乳腺以外的部位，未被使用。", "If it is the breast, correct Body Part Examined at the modality and send again.", "如确为乳腺，请在设备端更正检查部位后重新发送。"),
    ("MR_SIDE_NOT_READ", _N, "An MRI series of the other breast was there too and was not read; this result is of one breast's MRI.", "另有对侧乳腺的MRI序列，但未被读取；本结果仅基于单侧乳腺MRI。", "Read the MRI of the other breast without this analysis.", "对侧乳腺MRI请自行阅片，不参考本分析。"),
    ("NAMES_DIFFER", _N, "Images under this Patient ID bear different names.", "同一患者ID下的图像姓名不同。", "Make sure that all are of one patient; take out what is not.", "请确认均属于同一患者；如不是，请剔除。"),
    ("SEVERAL_PATIENTS", _N, "This identifier belongs to several patients here.", "该标识符在此对应多名患者。", "Look which case is meant; ask again by its Study Instance UID.", "请确认所指病例，并用其检查实例UID再次查询。"),
    ("VIEW_CONFLICT", _N, "A mammogram states two different views and was left out.", "乳腺X线图像标明了两个不同的体位，未被使用。", "Correct View Position and View Code at the modality and send again.", "请在设备端更正体位后重新发送。"),
    ("TOMOSYNTHESIS_NOT_USED", _N, "A tomosynthesis volume or projection was left out; the model reads two-dimensional mammograms.", "断层合成容积或投影图像未被使用；模型仅读取二维乳腺X线图像。", "Nothing to do.", "无需操作。"),
    ("SYNTHETIC_NOT_USED", _N, "A two-dimensional image computed from tomosynthesis was left out.", "由断层合成计算得到的二维图像未被使用。", "Nothing to do.", "无需操作。"),
    ("SYNTHETIC_USED", _N, "An image computed from tomosynthesis was read in place of a full-field mammogram.", "以断层合成计算得到的图像代替全视野数字乳腺X线图像进行分析。", "Read the result with this limit in mind.", "阅读结果时请注意此限制。"),
    ("SYNTHETIC_ONLY", _N, "Of a view there is only tomosynthesis or an image computed from it; the model was not trained on that.", "某一体位仅有断层合成或由其计算得到的图像，模型未以此训练。", "Send the full-field mammogram of this view, if there is one.", "如有该体位的全视野数字乳腺X线图像，请发送。"),
    ("SCREEN_COPY", _N, "A screen copy, a report page or a picture with burned-in annotation only was left out.", "屏幕截图、报告页或仅含烧录标注的图像未被使用。", "Send the original images.", "请发送原始图像。"),
    ("MR_NOT_DYNAMIC", _N, "An MR image is not part of the contrast series (diffusion, T2, localiser, subtraction and others).", "该MR图像不属于动态增强序列（弥散、T2、定位像、减影等）。", "Nothing to do.", "无需操作。"),
    ("MOTION_SEEN", _N, "The patient moved between the phases of the MRI.", "MRI各期相之间患者有移动。", "Look at the subtraction before reading the result.", "阅读结果前请查看减影图像。"),
    ("CLIPPED", _N, "A large part of an image lies at the end of its grey scale.", "图像有较大部分处于灰阶末端。", "Check exposure, gain and window of this image before reading the result.", "阅读结果前请核对该图像的曝光、增益和窗设置。"),
    ("SPACING_UNUSUAL", _N, "The pixel or slice spacing lies outside the range of the model's training.", "像素间距或层间距超出模型训练范围。", "Read the result with this limit in mind.", "阅读结果时请注意此限制。"),
    ("SCANNER_UNKNOWN", _N, "The images come from a manufacturer that the model was not trained on.", "图像来自模型未训练过的制造商设备。", "Read the result with this limit in mind.", "阅读结果时请注意此限制。"),
    ("AGE_OUTSIDE", _N, "The patient's age lies outside the range of the model's training.", "患者年龄超出模型训练范围。", "Read the result with this limit in mind.", "阅读结果时请注意此限制。"),
    ("SEX_OUTSIDE", _N, "The model was not trained on patients of this sex.", "模型未以该性别的患者训练。", "Read the result with this limit in mind.", "阅读结果时请注意此限制。"),
    ("ANSWER_UNSTABLE", _N, "The answer hangs on one modality; it gives no positive and no negative answer.", "结论仅取决于一种影像；不给出阳性或阴性结论。", "Read the images without this analysis.", "请在不依赖本分析的情况下阅片。"),
    ("INPUT_UNUSUAL", _N, "The images differ from all that the model was trained on; it gives no positive and no negative answer.", "图像与模型训练所用图像差异过大；不给出阳性或阴性结论。", "Read the images without this analysis.", "请在不依赖本分析的情况下阅片。"),
    # --- refused -------------------------------------------------------------------------------------------
    ("AE_NOT_ALLOWED", _R, "This combination of calling AE, called AE and address is not allowed.", "不允许该主叫AE、被叫AE与地址的组合。", "Add the peer to [[dicom.peer]] in the configuration.", "请在配置的 [[dicom.peer]] 中添加该节点。"),
    ("TOO_MANY_ASSOCIATIONS", _R, "The limit of associations is reached.", "已达到连接数上限。", "Send again later.", "请稍后重发。"),
    ("PDU_TOO_LONG", _R, "The peer announced a PDU longer than the limit.", "对方声明的PDU长度超过上限。", "Check the sender.", "请检查发送方。"),
    ("PEER_TOO_SLOW", _R, "The peer did not complete a PDU in time.", "对方未在规定时间内发送完整的PDU。", "Check the network and the sender.", "请检查网络和发送方。"),
    ("PROTOCOL_VIOLATION", _R, "The peer broke the DICOM upper layer protocol.", "对方违反了DICOM上层协议。", "Check the sender.", "请检查发送方。"),
    ("TLS_FAILED", _R, "A TLS handshake failed, or TLS met a port for plain DICOM.", "TLS握手失败，或以TLS连接了明文DICOM端口。", "Compare TLS on or off, certificates and their dates at both ends.", "请核对两端的TLS开关、证书及有效期。"),
    ("PEER_ABORTED", _N, "The peer ended the association early; what was acknowledged stays.", "对方提前中止了连接；已确认的图像会保留。", "Nothing to do; the sender may send the rest.", "无需操作；发送方可补发其余图像。"),
    ("COMMITMENT_UNKNOWN", _R, "A storage commitment report names a transaction that was never asked for here.", "存储承诺报告所指的事务并非由本系统发起。", "Check which system the report is meant for.", "请检查该报告应发往哪个系统。"),
    ("NOT_DICOM", _R, "The bytes are not a DICOM data set.", "数据不是DICOM数据集。", "Check the sender.", "请检查发送方。"),
    ("TRUNCATED", _R, "The data set ends early.", "数据集不完整。", "Send the instance again.", "请重新发送该图像。"),
    ("HEADER_MALFORMED", _R, "The header can't be read.", "无法读取文件头。", "Check the sender.", "请检查发送方。"),
    ("UID_INVALID", _R, "An identifier is missing or not a valid UID.", "缺少标识符或UID无效。", "Check the sender.", "请检查发送方。"),
    ("UID_MISMATCH", _R, "The data set's UIDs differ from the command's.", "数据集与命令中的UID不一致。", "Check the sender.", "请检查发送方。"),
    ("NESTING_TOO_DEEP", _R, "Sequences are nested too deeply.", "序列嵌套过深。", "Check the sender.", "请检查发送方。"),
    ("INFLATES_TOO_FAR", _R, "The deflated data set inflates beyond the limit.", "压缩数据集解压后超过上限。", "Send it in another transfer syntax.", "请以其他传输语法发送。"),
    ("TOO_LARGE", _R, "The instance is larger than the limit.", "图像大小超过上限。", "Check the sender, or raise the limit.", "请检查发送方，或提高上限。"),
    ("DIMENSIONS_TOO_LARGE", _R, "Rows x Columns x Frames is beyond the limit.", "行×列×帧数超过上限。", "Check the sender.", "请检查发送方。"),
    ("SOP_CLASS_NOT_ACCEPTED", _R, "Objects of this kind are not analysed here.", "本服务不处理此类对象。", "Route only MG, MR and US images.", "请只路由MG、MR和US图像。"),
    ("MODALITY_NOT_ACCEPTED", _R, "The modality is missing or not one of MG, MR, US.", "检查类型缺失或不是MG、MR、US。", "Route only MG, MR and US images.", "请只路由MG、MR和US图像。"),
    ("TRANSFER_SYNTAX_NOT_ACCEPTED", _R, "No decoder here reads this transfer syntax.", "没有可读取该传输语法的解码器。", "Send it in another transfer syntax.", "请以其他传输语法发送。"),
    ("OWN_RESULT", _R, "This is a result of this service; it is not analysed again.", "这是本服务的结果，不会再次分析。", "Exclude our results from the routing rule.", "请在路由规则中排除本服务的结果。"),
    ("UID_CONFLICT", _R, "Another instance with the same SOP Instance UID but other bytes is already here; this one is kept aside.", "已存在UID相同但内容不同的图像；本图像已另行保存。", "Compare both and decide; nothing was overwritten.", "请比较两者后决定；未覆盖任何数据。"),
    ("PATIENT_ID_MISSING", _R, "The study or image has no Patient ID, so it can't be joined to a patient.", "检查或图像缺少患者ID，无法归入患者。", "Correct the Patient ID and send again.", "请更正患者ID后重新发送。"),
    ("PATIENT_IDENTITY_CONFLICT", _R, "Images that should be of one patient state different patient IDs, birth dates or sexes.", "应属同一患者的图像标注了不同的患者ID、出生日期或性别。", "Settle the identity: take out what is another patient's (casework exclude); where a header is wrong, take the image out and send it again corrected. Of two Patient IDs in one study, casework decide says that each stands.", "请核实身份：剔除其他患者的图像（casework exclude）；如文件头有误，请剔除该图像并重新发送更正后的图像。同一检查有两个患者ID时，可用 casework decide 确认各自成立。"),
    ("SIDE_CHANGED", _R, "An image came again under the same SOP Instance UID with another side or modality; the first stands, and nothing runs or is sent until a person decides.", "相同SOP实例UID的图像再次到达，但侧别或类型不同；保留首次的图像，在人工决定之前不分析也不发送。", "Compare both, then accept the new one or dismiss it.", "请比较两者，然后接受或驳回新图像。"),
    ("IDENTITY_CHANGED", _R, "An image came again under the same SOP Instance UID with another patient or study; the first stands, and nothing runs or is sent until a person decides.", "相同SOP实例UID的图像再次到达，但患者或检查不同；保留首次的图像，在人工决定之前不分析也不发送。", "Find out whom it shows, then accept the new one or dismiss it.", "请核实图像属于谁，然后接受或驳回新图像。"),
    ("DECISION_NEEDED", _R, "A doubt about patient or side is undecided.", "关于患者或侧别的疑问尚未决定。", "Decide it first: casework decide.", "请先作出决定：casework decide。"),
    ("ALL_EXCLUDED", _R, "Every image of this case was taken out.", "本病例的所有图像均已被剔除。", "Nothing to do; an earlier result was withdrawn by itself.", "无需操作；先前的结果已自动撤回。"),
    ("NO_USABLE_IMAGE", _R, "No image of this case can be used by the model.", "本病例没有模型可用的图像。", "Read each image's reason in the case.", "请查看病例中每幅图像的原因。"),
    ("LATERALITY_CONFLICT", _R, "An image states two different sides.", "图像标明了两个不同的侧别。", "Correct the side at the modality and send again; take the wrong image out (casework exclude) if the new one has another UID.", "请在设备端更正侧别后重新发送；如新图像的UID不同，请剔除错误图像（casework exclude）。"),
    ("SIDE_PIXELS_CONFLICT", _R, "A mammogram shows the breast at the other edge than its side and its orientation both say.", "乳腺X线图像中乳房所在边缘与其侧别和方向标注均不符。", "Check the side at the modality, correct it and send again.", "请在设备端核对并更正侧别后重新发送。"),
    ("IMPLANT_PRESENT", _R, "An image shows or states a breast implant; the model was not trained on implants.", "图像显示或标明有乳房植入物；模型未以植入物图像训练。", "Read the images without this analysis.", "请在不依赖本分析的情况下阅片。"),
    ("REQUEST_INVALID", _R, "The request does not follow the contract.", "请求不符合接口约定。", "See openapi/openapi.yaml.", "请参阅 openapi/openapi.yaml。"),
    ("MEDIA_TYPE_NOT_ACCEPTED", _R, "The request's media type or encoding is not accepted here.", "不接受该请求的媒体类型或编码。", "Send multipart/related; type=application/dicom without Content-Encoding.", "请以不带 Content-Encoding 的 multipart/related; type=application/dicom 发送。"),
    ("TOO_MANY_PARTS", _R, "The request holds more parts than the limit.", "请求包含的部分数超过上限。", "Send the study in several requests.", "请分多次请求发送该检查。"),
    ("NOT_ACCEPTABLE", _R, "This result has another media type than the request accepts.", "该结果的媒体类型与请求所接受的不同。", "Ask for the media type that the list of results names.", "请使用结果列表中给出的媒体类型。"),
    ("PDF_NOT_CONFIGURED", _R, "PDF summaries are switched off here.", "此处未启用PDF摘要。", "Ask for HTML, or name a font in report.pdf_font.", "请使用HTML，或在 report.pdf_font 中指定字体。"),
    ("REQUEST_TOO_LARGE", _R, "The request's body is larger than the limit.", "请求正文超过大小上限。", "Send less in one request.", "请减少单次请求的内容。"),
    ("REQUEST_TOO_SLOW", _R, "The request's body did not come in time.", "未在规定时间内收到请求正文。", "Check the network and the sender, then send it again.", "请检查网络和发送方后重新发送。"),
    ("IDEMPOTENCY_CONFLICT", _R, "This Idempotency-Key was used with another request.", "该幂等键已用于其他请求。", "Use a new key.", "请使用新的键。"),
    ("NOT_FOUND", _R, "Nothing here has this identifier.", "未找到该标识符。", "Search by accession with casework why.", "请用 casework why 按检查号查询。"),
    ("HOST_NOT_ALLOWED", _R, "The request names a host that this service is not called by.", "请求的主机名不是本服务的名称。", "Use its own name, or add it to http.allowed_hosts.", "请使用本服务的名称，或将其加入 http.allowed_hosts。"),
    ("NOT_AUTHENTICATED", _R, "The request carries no valid API key or access token.", "请求缺少有效的API密钥或访问令牌。", "Send it in the Authorization header as Bearer.", "请在 Authorization 头中以 Bearer 方式发送。"),
    ("NOT_AUTHORISED", _R, "The key's role does not allow this.", "该密钥的角色无此权限。", "Ask an administrator.", "请联系管理员。"),
    ("STATE_FORBIDS", _R, "The case's state does not allow this action.", "病例当前状态不允许此操作。", "See the case's state and reason.", "请查看病例状态和原因。"),
    ("RESULTS_REMOVED", _R, "These results were removed here by the retention policy.", "该结果已按保存策略从此处删除。", "Read, copy or reject them in the PACS that has them.", "请在保存该结果的PACS中查看、复制或拒绝。"),
    ("WITHDRAWN_BEFORE", _R, "A person withdrew this case's results, and every image that they came from is still in it; it is not analysed again by itself.", "人工已撤回本病例的结果，而其所用图像仍全部在病例中；不会自动再次分析。", "Take out what is wrong, or retry the case if it may be analysed; else close it.", "请剔除错误图像；如可分析，请重试该病例；否则请关闭。"),
    ("CLOSED_BEFORE", _R, "A person closed this case; images that came since are not analysed by themselves.", "人工已关闭本病例；之后到达的图像不会自动分析。", "Retry the case to analyse it after all, or close it again.", "如仍需分析，请重试该病例；否则请再次关闭。"),
    ("DISMISSED", _N, "A person decided that the first images stand; the earlier revision's result holds.", "人工确认保留首次的图像；先前版本的结果有效。", "Nothing to do.", "无需操作。"),
    ("HELD", _W, "A doubt about patient or side is undecided; nothing of this case is sent until it is.", "关于患者或侧别的疑问尚未决定；在此之前不发送本病例的任何内容。", "Decide it: casework decide.", "请作出决定：casework decide。"),
    ("CANCELLED", _R, "A person cancelled this.", "已被人工取消。", "Retry the case to run it after all.", "如需运行，请重试该病例。"),
    ("FETCH_WRONG_PATIENT", _R, "The PACS gave an image of another patient than was asked for; it was refused.", "PACS返回了其他患者的图像，已拒绝。", "Check the PACS: its index contradicts its images.", "请检查PACS：其索引与图像不一致。"),
    ("FETCH_WRONG_STUDY", _R, "The PACS gave an image of another study than was asked for; it was refused.", "PACS返回了其他检查的图像，已拒绝。", "Check the PACS: its index contradicts its images.", "请检查PACS：其索引与图像不一致。"),
    ("FETCH_TOO_MUCH", _R, "The PACS gave more than was asked for; the transfer was cut.", "PACS返回的数据超出请求，传输已中止。", "Check the PACS, or raise fetch.max_bytes.", "请检查PACS，或提高 fetch.max_bytes。"),
    ("FETCH_INSTANCE_TOO_LARGE", _R, "An image of this study is larger than 1 GiB, which C-GET can't carry into this service.", "该检查中有超过1 GiB的图像，无法通过C-GET获取。", "Set retrieve of this PACS to move, or to wado with kind stow.", "请将该PACS的 retrieve 设为 move，或以 kind stow 设为 wado。"),
    ("FETCH_NOT_FOUND", _R, "The PACS holds nothing with this identifier.", "PACS中没有该标识符的内容。", "Check the identifier.", "请核对标识符。"),
    ("FETCH_NOT_CONFIGURED", _R, "No PACS is configured to fetch from.", "未配置可获取检查的PACS。", "Set retrieve at a [[destination]].", "请在 [[destination]] 中设置 retrieve。"),
    ("NEVER_ARRIVED", _R, "Nothing under this identifier has ever reached this service.", "本服务从未收到该标识符的任何内容。", "Compare the sender's AE title, address and port with ours; casework why --ask asks the PACS.", "请核对发送方的AE标题、地址和端口；可用 casework why --ask 查询PACS。"),
    ("PACS_HOLDS_IT", _R, "The PACS holds this study; it was never sent here.", "PACS中有该检查，但从未发送到此处。", "Route it from the PACS, or fetch it with casework fetch.", "请从PACS路由，或用 casework fetch 获取。"),
    ("PACS_HOLDS_NOTHING", _R, "No PACS that was asked holds anything with this identifier.", "所查询的PACS中均无该标识符的内容。", "Check the identifier, and whether the modality has sent the study to the PACS.", "请核对标识符，并确认设备已将检查发送到PACS。"),
    # --- unavailable ---------------------------------------------------------------------------------------
    ("DISK_LOW", _U, "The disk is fuller than the watermark.", "磁盘使用率超过水位线。", "Free space; senders may try again.", "请释放空间；发送方可重试。"),
    ("STORAGE_FAILED", _U, "Writing to disk failed; intake has stopped.", "写入磁盘失败，接收已停止。", "Check the disk, then restart.", "请检查磁盘后重启。"),
    ("LEDGER_UNAVAILABLE", _U, "The ledger can't be reached.", "无法访问账本数据库。", "Check the database.", "请检查数据库。"),
    ("QUEUE_UNAVAILABLE", _U, "Redis can't be reached: jobs wait in the ledger until it rings again.", "无法访问Redis：任务保留在账本中，待其恢复后继续。", "Check Redis and its password file; nothing is lost meanwhile.", "请检查Redis及其密码文件；其间不会丢失任何任务。"),
    ("PEER_TLS", _U, "TLS with the destination failed: its certificate is not believed, or ours is not.", "与目的地的TLS握手失败：其证书或我方证书不被信任。", "Compare ca_file, tls_name and the dates of the certificates at both ends; it is tried again.", "请核对两端的 ca_file、tls_name 与证书有效期；将自动重试。"),
    ("PEER_UNREACHABLE", _U, "The destination can't be reached.", "无法连接目的地。", "Check host, port and network; it is tried again.", "请检查主机、端口和网络；将自动重试。"),
    ("PEER_REJECTED", _U, "The destination rejected the association for now.", "目的地暂时拒绝连接。", "It is tried again.", "将自动重试。"),
    ("PEER_BUSY", _U, "The destination is out of resources.", "目的地资源不足。", "It is tried again.", "将自动重试。"),
    ("PEER_FAILED", _U, "The destination failed to process the result.", "目的地处理结果失败。", "It is tried five times.", "将尝试五次。"),
    ("PEER_OUTCOME_UNKNOWN", _U, "The connection broke before the answer; the same bytes are sent again.", "在收到应答前连接中断；将重发相同内容。", "It is tried again.", "将自动重试。"),
    ("PROOF_LATE", _U, "A destination stored a result and has not proved for too long that it holds it.", "目的地已保存结果，但长时间未证明其持有。", "Look for the result at the destination; it is asked again.", "请在目的地查找该结果；系统将再次询问。"),
    ("WEBHOOK_UNREACHABLE", _U, "A webhook's receiver can't be reached.", "无法连接 webhook 接收方。", "Check its host and network; it is tried again.", "请检查其主机和网络；将自动重试。"),
    ("WEBHOOK_TLS", _U, "A webhook's receiver has no certificate that can be trusted.", "webhook 接收方的证书不可信。", "Renew its certificate, or set ca_file; it is tried again.", "请更新其证书，或设置 ca_file；将自动重试。"),
    ("WEBHOOK_FAILED", _U, "A webhook's receiver did not accept an event.", "webhook 接收方未接受事件。", "Read its status and its log; it is tried again.", "请查看其状态与日志；将自动重试。"),
    ("ALREADY_RUNNING", _U, "Another service already uses this storage root.", "另一个服务正在使用该存储目录。", "Stop it first, or set another storage.root.", "请先停止它，或设置另一个 storage.root。"),
    ("RATE_LIMITED", _U, "Too many requests.", "请求过多。", "Try again later.", "请稍后重试。"),
    ("QUEUE_STALLED", _U, "Cases wait for a worker longer than they should.", "病例等待处理的时间过长。", "Is a worker alive? See casework doctor.", "请检查处理进程是否在运行；见 casework doctor。"),
    ("SHUTTING_DOWN", _U, "The service is stopping.", "服务正在停止。", "Try again later.", "请稍后重试。"),
    ("LEASE_EXPIRED", _U, "A worker stopped before it finished; the job is taken up again.", "处理进程中途停止；任务将重新执行。", "It is tried again.", "将自动重试。"),
    ("DECODER_CRASHED", _U, "The decoder crashed or exceeded its limits.", "解码器崩溃或超出限制。", "It is tried again, then left out.", "将重试，之后忽略该图像。"),
    ("FETCH_INCOMPLETE", _U, "The PACS gave fewer images than it says it holds.", "PACS返回的图像少于其声明的数量。", "It is tried again.", "将自动重试。"),
    ("LISTENER_DOWN", _U, "The DICOM listener is not running: nobody can send.", "DICOM接收进程未运行，无法接收任何图像。", "Start the service, then read its log and casework doctor.", "请启动服务，并查看日志和 casework doctor。"),
    ("KEEPER_DOWN", _U, "The keeper is not running: no case is put together.", "病例整理进程未运行，病例无法归并。", "Start the service, then read its log and casework doctor.", "请启动服务，并查看日志和 casework doctor。"),
    ("WORKER_DOWN", _U, "No inference worker is running: queued cases wait.", "没有分析进程在运行，排队的病例在等待。", "Start the service, then read its log and casework doctor.", "请启动服务，并查看日志和 casework doctor。"),
    ("SENDER_DOWN", _U, "The delivery worker is not running: results wait.", "发送进程未运行，结果在等待发送。", "Start the service, then read its log and casework doctor.", "请启动服务，并查看日志和 casework doctor。"),
    ("FETCHER_DOWN", _U, "The fetch worker is not running: nothing is fetched from the PACS.", "获取进程未运行，无法从PACS获取检查。", "Start the service, then read its log and casework doctor.", "请启动服务，并查看日志和 casework doctor。"),
    # --- defects -------------------------------------------------------------------------------------------
    ("PEER_REFUSED_OBJECT", _D, "The destination refused the result for good.", "目的地永久拒绝了结果。", "Read its status, mend the cause, then retry.", "请查看状态，修复原因后重试。"),
    ("PEER_REJECTED_FOR_GOOD", _D, "The destination permanently rejects our association.", "目的地永久拒绝我们的连接。", "Register our AE title there, then retry.", "请在该处登记我们的AE标题后重试。"),
    ("PEER_NO_CONTEXT", _D, "The destination does not accept objects of this kind.", "目的地不接受此类对象。", "Enable the SOP class there, or choose another destination, then retry.", "请在该处启用该SOP类，或选择其他目的地后重试。"),
    ("RESULT_NOT_HELD", _D, "The destination acknowledged the result but does not hold it.", "目的地曾确认接收结果，但并未持有。", "Look at the destination's storage, then retry.", "请检查目的地的存储后重试。"),
    ("COMMITMENT_REFUSED", _D, "The destination refuses to commit to objects of this kind.", "目的地拒绝对此类对象作存储承诺。", "Enable storage commitment for this SOP class there, or set proof to query, then retry.", "请在该处为此SOP类启用存储承诺，或将 proof 设为 query，然后重试。"),
    ("PROOF_MISSING", _D, "The destination never proved that it holds the result.", "目的地始终未证明其持有该结果。", "Check storage commitment or query access there, then retry.", "请检查该处的存储承诺或查询权限后重试。"),
    ("WEBHOOK_ADDRESS", _D, "A webhook's host resolves to an address that is not allowed.", "webhook 主机解析到不被允许的地址。", "List its network in [[webhook]] if it is meant to be there.", "如确属预期，请在 [[webhook]] 中列出其网络。"),
    ("WEBHOOK_REDIRECTED", _D, "A webhook's receiver points elsewhere; redirects are not followed.", "webhook 接收方要求重定向；系统不跟随重定向。", "Set the address that answers itself, then send the dead events again.", "请设置直接应答的地址，然后重发失败的事件。"),
    ("WEBHOOK_GONE", _D, "A webhook's receiver says that it is gone.", "webhook 接收方已声明不再存在。", "Remove it from the configuration, or mend it and send the dead events again.", "请从配置中移除，或修复后重发失败的事件。"),
    ("WEBHOOK_HORIZON", _D, "A webhook's receiver did not accept an event within the horizon.", "webhook 接收方未在期限内接受事件。", "Mend the receiver, then send the dead events again.", "请修复接收方，然后重发失败的事件。"),
    ("WEBHOOK_KEY", _D, "A webhook's key can't be used.", "webhook 的密钥不可用。", "Check key_file: whsec_ and the base64 of 24 to 64 bytes, readable by the service only.", "请检查 key_file：whsec_ 加24至64字节的base64，且仅服务可读。"),
    ("DESTINATION_UNKNOWN", _D, "Results wait for a destination that is not configured.", "有结果等待发往未配置的目的地。", "Configure it again, or cancel the case.", "请重新配置该目的地，或取消该病例。"),
    ("DELIVERY_HORIZON", _D, "The destination did not take the result within the horizon.", "目的地未在期限内接收结果。", "Repair the destination, then retry.", "请修复目的地后重试。"),
    ("FETCH_NOT_OFFERED", _D, "The PACS does not offer what is configured to fetch from it.", "PACS不支持所配置的获取方式。", "Choose another retrieve (wado, move, get), or enable it there.", "请选择其他 retrieve（wado、move、get），或在PACS上启用。"),
    ("FETCH_MOVE_UNKNOWN", _D, "The PACS does not know our AE title as a C-MOVE destination.", "PACS不认识我们的AE标题作为C-MOVE目的地。", "Register our AE title, host and port there.", "请在PACS登记我们的AE标题、主机和端口。"),
    ("RESULT_SELF_CHECK", _D, "A result failed its own check against the source study and was not sent.", "结果未通过与源检查的自检，未发送。", "Report this to the maker.", "请报告给制造商。"),
    ("MODEL_UNSIGNED", _D, "No trusted key has signed the model package.", "模型包未经受信任的密钥签名。", "Have it signed with casework sign-model, and name the public key in signing.public_key_files.", "请用 casework sign-model 签名，并在 signing.public_key_files 中指定公钥。"),
    ("MODEL_ROLLBACK", _D, "The model package is older than the one that served last.", "该模型包早于上次运行的版本。", "Install the newer one; to go back on purpose name it in signing.allow_rollback.", "请安装较新的版本；如确需回退，请在 signing.allow_rollback 中注明。"),
    ("MODEL_CHANGED", _D, "The model package on the disk is not the one that was opened.", "磁盘上的模型包与已载入的不一致。", "Find out who changed it; install it again and restart the worker.", "请查明由谁更改；重新安装后重启处理进程。"),
    ("ENGINE_UNAVAILABLE", _U, "A configured engine can't be used here: its library, driver, GPU, plan or twin is missing.", "无法使用所配置的推理引擎：缺少其库、驱动、GPU、推理计划或半精度模型。", "Read the log line engine.passed_over, mend it and restart; or take it out of engine.order.", "请查看日志行 engine.passed_over，修复后重启；或将其从 engine.order 中移除。"),
    ("DECODER_FALLBACK", _U, "The configured pixel decoder can't be used here; the CPU decodes instead, with the same pixels.", "无法使用所配置的像素解码器；改由CPU解码，像素完全相同。", "Read the log line decoder.passed_over, mend it and restart; or set engine.decoder = \"cpu\".", "请查看日志行 decoder.passed_over，修复后重启；或设置 engine.decoder = \"cpu\"。"),
    ("PROBE_FAILED", _U, "The probe's study did not come to a result as it should.", "探测检查未能按预期得到结果。", "See casework why for the case that it names, and casework doctor.", "请对其所示病例运行 casework why，并运行 casework doctor。"),
    ("ENGINE_LOST", _U, "The GPU failed or has no memory left; the worker starts anew.", "GPU故障或显存不足；推理进程将重新启动。", "Wait; if it comes again, look at the GPU (nvidia-smi).", "请等待；如再次出现，请检查GPU（nvidia-smi）。"),
    ("ENGINE_PLAN_FAILED", _D, "The engine's plan could not be built from the model.", "无法从模型构建推理计划。", "Run casework build-plan and read what it says; the next engine of engine.order serves meanwhile.", "请运行 casework build-plan 并查看提示；期间由 engine.order 中的下一引擎提供服务。"),
    ("MODEL_INVALID", _D, "The model package is not what its manifest says.", "模型包与其清单不符。", "Install the package again.", "请重新安装模型包。"),
    ("MODEL_GOLDEN_MISMATCH", _D, "The engine does not reproduce the golden sample.", "引擎未能重现基准样本。", "Don't use this engine; see casework doctor.", "请勿使用该引擎；见 casework doctor。"),
    ("NOT_TOLD", _D, "The studies could not be told that nothing was analysed.", "未能在检查中写明未进行分析。", "Tell the readers yourself, then retry the case.", "请自行告知阅片医师，然后重试该病例。"),
    ("NOT_WITHDRAWN", _D, "The rejection note for results of a study that left this case could not be made.", "未能为离开本病例的检查结果生成拒绝说明。", "Withdraw the earlier revision with casework retract, or reject its objects in the PACS; tell the readers.", "请用 casework retract 撤回先前版本，或在PACS中拒绝其对象，并告知阅片医师。"),
    ("ATTEMPTS_EXHAUSTED", _D, "Every try failed.", "所有尝试均失败。", "Read the last error, then retry.", "请查看最后的错误后重试。"),
    ("ILLEGAL_MOVE", _D, "A state change that the tables don't allow was tried.", "尝试了不允许的状态变更。", "Report this to the maker.", "请报告给制造商。"),
    ("LEDGER_CORRUPT", _D, "The audit chain or the ledger does not verify.", "审计链或账本校验失败。", "Stop, keep a copy, see the runbook.", "请停机、保留副本并查看手册。"),
    ("SPOOL_CORRUPT", _D, "A stored object no longer matches its digest.", "存储的对象与其摘要不符。", "Restore it from the PACS; see the runbook.", "请从PACS恢复；见手册。"),
    ("IMAGES_REMOVED", _D, "Images that this analysis needs were removed by the retention policy.", "本次分析所需的图像已按保存策略删除。", "Send the study again from the PACS, then retry.", "请从PACS重新发送该检查，然后重试。"),
    ("ISSUER_KEYS", _D, "The public keys of the issuer of access tokens can't be read.", "无法读取访问令牌颁发者的公钥。", "Check oidc.jwks_url or jwks_file, ca_file and the network; API keys still work.", "请检查 oidc.jwks_url 或 jwks_file、ca_file 及网络；API密钥仍可使用。"),
    ("CONFIG_INVALID", _D, "The configuration can't be used.", "配置不可用。", "Correct the setting that is named.", "请更正所指出的设置。"),
    ("INTERNAL", _D, "Something unexpected failed.", "发生意外错误。", "See the log by the correlation id.", "请按关联号查看日志。"),
)
# fmt: on

REASONS: dict[str, Reason] = {row[0]: Reason(*row) for row in _ROWS}


def reason(code: str) -> Reason:
    """Return the catalogue's row.

    Raises:
        KeyError: the code is not in the catalogue, which is a programming error.
    """
    return REASONS[code]
